"""Calls as nested elements, each tag behind a token that no text has (MiniMax M3):

    ]<]minimax[>[<invoke name="f">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>

Objects are elements in an element, and lists elements named `item`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.json_text import dumped
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted
from worker.chat.formats.record import Tools
from worker.chat.formats.typed_value import branches_of, typed, types_of, value_rules
from worker.chat.schema.enforceable import Schema

_MAX_DEPTH = 32
_TAG = re.compile(r"<(/?)([^>]*)>(.*)", re.DOTALL)


@dataclass(slots=True)
class _Element:
    name: str
    text: str = ""
    inner: list[_Element] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Elements:
    """`space` is the token before every tag."""

    space: str

    @property
    def begins(self) -> str:
        return f'{self.space}<invoke name="'

    @property
    def markers(self) -> Sequence[str]:
        return (self.space,)

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        head = yield from cursor.match(
            self.begins, re.compile(re.escape(self.begins) + r'(?P<name>[^"]+)"\s*>')
        )
        if head is None or (name := head["name"]) not in tools:
            return False
        yield CallStarted(name)
        text, end = yield from cursor.until(f"{self.space}</invoke>")
        root = self._tree(text)
        if end is None or root is None:
            yield CallEnded(complete=False)
            return True
        schema = tools[name] or {}
        arguments = _object(root.inner, schema, schema)
        yield CallArguments(dumped(arguments))
        yield CallEnded()
        return True

    def _tree(self, text: str) -> _Element | None:
        """None where tags are not closed as they were opened, or too many are open."""
        open_elements = [_Element("")]
        for piece in text.split(self.space)[1:]:
            tag = _TAG.match(piece)
            if tag is None:
                open_elements[-1].text += piece
            elif not tag[1] and len(open_elements) < _MAX_DEPTH:
                element = _Element(tag[2].strip(), tag[3])
                open_elements[-1].inner.append(element)
                open_elements.append(element)
            elif len(open_elements) > 1 and open_elements[-1].name == tag[2].strip():
                open_elements.pop()
            else:
                return None
        return open_elements[0]

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        inner, rules = self._object_rules(rule, arguments, arguments, constraints, 0)
        written = constraints.written
        head, tail = written(f'{self.begins}{name}">'), written(f"{self.space}</invoke>")
        return [f"{rule}: {head} {inner} {tail}", *rules]

    def _object_rules(
        self, rule: str, schema: Schema, root: Schema, constraints: Constraints, depth: int
    ) -> tuple[str, list[str]]:
        required, parts, rules = set(schema.get("required", ())), [], []
        for number, (key, value) in enumerate(schema.get("properties", {}).items()):
            part = f"{rule}_{number}"
            parts.append(part if key in required else f"{part}?")
            rules += self._element_rules(part, key, value, root, constraints, depth + 1)
        return " ".join(parts), rules

    def _element_rules(
        self, rule: str, key: str, schema: Schema, root: Schema, constraints: Constraints, depth: int
    ) -> list[str]:
        written = constraints.written
        head, tail = f"{self.space}<{key}>", f"{self.space}</{key}>"
        types = types_of(schema, root)
        if depth < _MAX_DEPTH and types == {"object"} and schema.get("properties"):
            inner, rules = self._object_rules(rule, schema, root, constraints, depth)
            return [f"{rule}: {written(head)} {inner} {written(tail)}", *rules]
        if depth < _MAX_DEPTH and types == {"array"} and isinstance(items := schema.get("items"), dict):
            rules = self._element_rules(f"{rule}_item", "item", items, root, constraints, depth + 1)
            return [f"{rule}: {written(head)} {rule}_item* {written(tail)}", *rules]
        return [
            f"{rule}: {written(head)} {rule}_value",
            *value_rules(f"{rule}_value", schema, root, tail, constraints),
        ]


def _object(elements: Sequence[_Element], schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    return {
        element.name: _value(element, _property(element.name, schema, root), root) for element in elements
    }


def _value(element: _Element, schema: Any, root: Mapping[str, Any]) -> Any:
    types = types_of(schema, root)
    if not element.inner:
        if types == {"array"} and not element.text.strip():
            return []
        if types == {"object"} and not element.text.strip():
            return {}
        return typed(element.text, schema, root)
    if all(inner.name == "item" for inner in element.inner) and types != {"object"}:
        items: Any = next((branch["items"] for branch in branches_of(schema, root) if "items" in branch), {})
        return [_value(inner, items, root) for inner in element.inner]
    return _object(element.inner, schema, root)


def _property(name: str, schema: Any, root: Mapping[str, Any]) -> Any:
    found: Iterator[Any] = (
        branch["properties"][name]
        for branch in branches_of(schema, root)
        if isinstance(branch.get("properties"), Mapping) and name in branch["properties"]
    )
    return next(found, {})
