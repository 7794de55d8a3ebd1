"""Calls whose parameters stand between tags, each by its own: `<parameter=city>Paris</parameter>`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.json_text import dumped
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted
from worker.chat.formats.record import Tools
from worker.chat.formats.typed_value import typed, types_of, value_rules
from worker.chat.schema.enforceable import Schema


@dataclass(frozen=True, slots=True)
class Parameter:
    """How one parameter is written.

    `head` matches what is before the value, with the group `key`, and `type` where the model says it itself:
    "true" and "string" for text, all else for JSON. `write` is how the model is held to write it, with
    `{key}`, and `{type}` where `write_types` has the words for text and for JSON. `line_breaks` around a value
    are not part of it. A value that was left open ends where the next parameter begins, or the call ends.
    """

    begins: str
    head: re.Pattern[str]
    write: str
    end: str
    write_end: str
    write_types: tuple[str, str] = ("", "")
    line_breaks: bool = False
    cdata: bool = False


@dataclass(frozen=True, slots=True)
class Tagged:
    """`head` matches all before the parameters, with a group `name`; `write` is how it is written."""

    begins: str
    head: re.Pattern[str]
    write: str
    parameter: Parameter
    end: str
    ends: tuple[str, ...] = ()  # that may stand there instead

    @property
    def markers(self) -> Sequence[str]:
        own = self.parameter
        return (self.begins, self.write, self.end, *self.ends, own.begins, own.write, own.end, own.write_end)

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        head = yield from cursor.match(self.begins, self.head)
        if head is None or (name := head["name"].strip()) not in tools:
            return False
        schema = tools[name] or {}
        yield CallStarted(name)
        written: set[str] = set()
        while True:
            yield from cursor.skip(" \t\r\n")
            found = yield from cursor.match(self.parameter.begins, self.parameter.head)
            if found is None:
                break
            value, whole = yield from self._value(cursor)
            if not whole and cursor.final:
                yield CallEnded(complete=False)
                return True
            key = found["key"].strip()
            if key not in written:
                told = found.groupdict().get("type")
                begin = ", " if written else "{"
                yield CallArguments(f"{begin}{dumped(key)}: {dumped(self._typed(value, told, key, schema))}")
                written.add(key)
        closed = yield from cursor.literal(self.end, *self.ends)
        if closed is None and cursor.final and self._is_cut(cursor.rest):
            yield CallEnded(complete=False)
        else:
            yield CallArguments("}" if written else "{}")
            yield CallEnded()
        return True

    def _is_cut(self, rest: str) -> bool:
        """Whether the text ended in what would have become a parameter or the end of the call."""
        begins = self.parameter.begins
        return self.end.startswith(rest) or begins.startswith(rest) or rest.startswith(begins)

    def _value(self, cursor: Cursor) -> Reading[tuple[str, bool]]:
        own = self.parameter
        place = cursor.place
        if own.cdata:
            yield from cursor.skip(" \t\r\n")
            if (yield from cursor.literal("<![CDATA[")) is not None:
                text, end = yield from cursor.until("]]>")
                if end is not None:
                    yield from cursor.until(own.end)
                return text, end is not None
            cursor.go(place)
        text, end = yield from cursor.until(own.end, own.begins, self.end)
        if end is not None and end != own.end:
            cursor.go(cursor.place - len(end))
        if own.line_breaks:
            text = text.removeprefix("\n").removesuffix("\n")
        return text, end is not None

    def _typed(self, text: str, told: str | None, key: str, schema: Mapping[str, Any]) -> Any:
        if told is not None:
            return text if told in ("true", "string") else typed(text, {}, {})
        properties = schema.get("properties")
        return typed(text, properties.get(key, {}) if isinstance(properties, Mapping) else {}, schema)

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        properties = arguments.get("properties", {})
        required = set(arguments.get("required", ()))
        rules = []
        parts = []
        for number, (key, schema) in enumerate(properties.items()):
            part = f"{rule}_{number}"
            parts.append(part if key in required else f"{part}?")
            rules += self._parameter_rules(part, key, schema, arguments, constraints)
        body = " ".join(
            [constraints.written(self.write.replace("{name}", name)), *parts, constraints.written(self.end)]
        )
        return [f"{rule}: {body}", *rules]

    def _parameter_rules(
        self, rule: str, key: str, schema: Schema, root: Schema, constraints: Constraints
    ) -> list[str]:
        own = self.parameter
        is_text = types_of(schema, root) == {"string"}
        head = own.write.replace("{key}", key).replace("{type}", own.write_types[0 if is_text else 1])
        values = value_rules(f"{rule}_value", schema, root, own.write_end, constraints)
        return [f"{rule}: {constraints.written(head)} {rule}_value", *values]
