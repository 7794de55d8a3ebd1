"""Calls whose keys have no quotes, and whose strings stand between tokens: `call:f{city:<|"|>Paris<|"|>}`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat import lark
from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.json_text import dumped
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted
from worker.chat.formats.record import Tools
from worker.chat.formats.typed_value import types_of
from worker.chat.schema.enforceable import Schema, json_rule

_HEAD = re.compile(r"call:(?P<name>[^{\s]+)\s*\{")
_MAX_DEPTH = 64
_BARE = re.compile(r"[^,{}\[\]]*")
_KEY = re.compile(r'\s*"?([^:"{}\[\],]+?)"?\s*:')


@dataclass(frozen=True, slots=True)
class Quoted:
    """Gemma's. `quote` stands before and behind each string."""

    quote: str
    begins: str = "call:"

    @property
    def markers(self) -> Sequence[str]:
        return (self.quote,)

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        head = yield from cursor.match("call:", _HEAD)
        if head is None or head["name"] not in tools:
            return False
        text = yield from self._braced(cursor)
        if text is None:
            yield CallStarted(head["name"])
            yield CallEnded(complete=False)
            return True
        try:
            arguments, _ = self._object(text, 0, 0)
        except (ValueError, IndexError):
            return False
        yield CallStarted(head["name"])
        yield CallArguments(dumped(arguments))
        yield CallEnded()
        return True

    def _braced(self, cursor: Cursor) -> Reading[str | None]:
        """The text up to the brace that closes the one before the cursor; None if the text ends before."""
        depth, text = 1, ""
        while True:
            piece, end = yield from cursor.until(self.quote, '"', "{", "}")
            text += piece
            if end is None:
                return None
            if end in (self.quote, '"'):
                string, closed = yield from cursor.until(end)
                if closed is None:
                    return None
                text += end + string + end
                continue
            depth += 1 if end == "{" else -1
            text += end
            if depth == 0:
                return text

    def _object(self, text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
        """From behind its `{`; with the place behind its `}`. Raises ValueError."""
        value: dict[str, Any] = {}
        while text[at] in " \t\r\n,":
            at += 1
        while text[at] != "}":
            for quote in (self.quote, '"'):
                if text.startswith(quote, at):
                    end = text.index(quote, at + len(quote))
                    key, at = text[at + len(quote) : end], end + len(quote)
                    at = text.index(":", at) + 1
                    break
            else:
                if (found := _KEY.match(text, at)) is None:
                    raise ValueError
                key, at = found[1], found.end()
            value[key], at = self._value(text, at, depth + 1)
            while text[at] in " \t\r\n,":
                at += 1
        return value, at + 1

    def _list(self, text: str, at: int, depth: int) -> tuple[list[Any], int]:
        items = []
        while text[at] in " \t\r\n,":
            at += 1
        while text[at] != "]":
            item, at = self._value(text, at, depth + 1)
            items.append(item)
            while text[at] in " \t\r\n,":
                at += 1
        return items, at + 1

    def _value(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        if depth > _MAX_DEPTH:
            raise ValueError
        while text[at] in " \t\r\n":
            at += 1
        for quote in (self.quote, '"'):
            if text.startswith(quote, at):
                end = text.index(quote, at + len(quote))
                return text[at + len(quote) : end], end + len(quote)
        if text[at] == "{":
            return self._object(text, at + 1, depth)
        if text[at] == "[":
            return self._list(text, at + 1, depth)
        bare = _BARE.match(text, at)
        assert bare is not None
        if not bare.group():
            raise ValueError
        return _bare(bare.group().strip()), bare.end()

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        rules: list[str] = []
        body = self._object_rule(rule, arguments, arguments, constraints, rules, 0)
        return [f"{rule}: {constraints.written(f'call:{name}')} {body}", *rules]

    def _object_rule(
        self, rule: str, schema: Schema, root: Schema, constraints: Constraints, rules: list[str], depth: int
    ) -> str:
        required = set(schema.get("required", ()))
        parts = []
        for number, (key, value) in enumerate(sorted(schema.get("properties", {}).items())):
            part = f"{rule}_{number}"
            parts.append((part, key in required))
            written = self._value_rule(part, value, root, constraints, rules, depth + 1)
            rules.append(f"{part}: {constraints.written(key + ':')} {written}")
        return f'"{{" {lark.listed(parts, ",")} "}}"'

    def _value_rule(
        self, rule: str, schema: Schema, root: Schema, constraints: Constraints, rules: list[str], depth: int
    ) -> str:
        quote = constraints.written(self.quote)
        types = types_of(schema, root)
        if types == {"string"}:
            if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
                return f"{quote} {lark.either(map(lark.literal, filter(None, values)))} {quote}"
            rules.append(constraints.until(f"{rule}_text", self.quote))
            return f"{quote} {rule}_text"
        if types == {"object"} and schema.get("properties") and depth < 8:
            return self._object_rule(rule, schema, root, constraints, rules, depth)
        if types == {"array"} and isinstance(items := schema.get("items"), dict) and depth < 8:
            item = self._value_rule(f"{rule}_item", items, root, constraints, rules, depth + 1)
            rules.append(f"{rule}_one: {item}")
            return f'"[" ({rule}_one ("," {rule}_one)*)? "]"'
        rooted = {**schema, "$defs": root["$defs"]} if "$defs" in root else schema
        rules.append(f"{rule}_json: {json_rule(rooted)}")
        return f"{rule}_json"


def _bare(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
