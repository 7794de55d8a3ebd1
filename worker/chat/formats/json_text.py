"""Calls in JSON: as objects, or as a name and its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted
from worker.chat.formats.record import Tools
from worker.chat.schema.enforceable import Schema, json_rule
from worker.chat.tools.call_reader import CallReader


@dataclass(frozen=True, slots=True)
class JsonObject:
    """`{"name": …, "arguments": {…}}`, with other names for the two keys, in any order.

    `strict` objects have no keys but those of calls: where any other JSON might stand as well.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    strict: bool = False
    begins: str = ""
    markers: Sequence[str] = ()

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        if (yield from cursor.literal("{")) is None:
            return False
        reader = CallReader(strict=self.strict)
        reader.feed("{")
        started, sent = False, 0
        while not reader.done and (yield from cursor.more()):
            length = _fed(reader, cursor.rest, tools)
            cursor.take(length - reader.failed)
            if reader.failed or not _may_call(reader, tools):
                break
            if reader.name is not None and reader.has_arguments and not reader.done:
                if not started:
                    started = True
                    yield CallStarted(reader.name)
                if len(reader.arguments) > sent:
                    yield CallArguments(reader.arguments[sent:])
                    sent = len(reader.arguments)
        if not started:
            if not reader.done or reader.name is None or reader.name not in tools:
                return False
            if not reader.has_arguments:
                if self.strict:
                    return False
                reader.arguments = "{}"
            yield CallStarted(reader.name)
        if len(reader.arguments) > sent:
            yield CallArguments(reader.arguments[sent:])
        yield CallEnded(reader.failed or reader.done or has_whole_arguments(reader))
        return True

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        """As one JSON value: a name is no text before the arguments, read as more than itself."""
        arguments = dict(arguments)
        definitions = arguments.pop("$defs", {})
        properties = {self.name_key: {"const": name}, self.arguments_key: arguments}
        call = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
            "$defs": definitions,
        }
        return [f"{rule}: {json_rule(call)}"]


@dataclass(frozen=True, slots=True)
class NamedJson:
    """The arguments' JSON behind the call's name.

    `head` matches all before the arguments, with a group `name`; `write` is how it is written, with `{name}`,
    and exactly how it is read where there is no `head`. `tails` may follow.
    """

    begins: str
    head: re.Pattern[str] | None
    write: str
    tail: str = ""
    tails: tuple[str, ...] = ()

    @property
    def markers(self) -> Sequence[str]:
        return (self.begins, self.write, self.tail, *self.tails)

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        name = yield from self._head(cursor, tools)
        if name is None or not (yield from cursor.more()):
            return False
        yield CallStarted(name)
        yield from json_arguments(cursor)
        tails = tuple(filter(None, (self.tail.strip(), *self.tails)))
        place = cursor.place
        yield from cursor.skip(" \t\r\n")
        if (yield from cursor.literal(*tails)) is None:
            cursor.go(place)
        return True

    def _head(self, cursor: Cursor, tools: Tools) -> Reading[str | None]:
        """The tool's name, if one of them is called here."""
        if self.head is None:
            heads = {self.write.replace("{name}", name): name for name in tools}
            return heads.get((yield from cursor.literal(*heads)) or "")
        head = yield from cursor.match(self.begins, self.head)
        return head["name"].strip() if head is not None and head["name"].strip() in tools else None

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        written = constraints.written
        tail = f" {written(self.tail)}" if self.tail else ""
        head = self.write.replace("{name}", name)
        return [
            f"{rule}: {written(head)} {rule}_arguments{tail}",
            f"{rule}_arguments: {json_rule(arguments)}",
        ]


def _fed(reader: CallReader, text: str, tools: Tools) -> int:
    """How many characters the reader took: up to where its object ends, or is no call."""
    length = 0
    for char in text:
        reader.feed(char)
        length += 1
        if reader.done or reader.failed or not _may_call(reader, tools):
            break
    return length


def _may_call(reader: CallReader, tools: Tools) -> bool:
    return reader.name is None or reader.name in tools


def json_arguments(cursor: Cursor) -> Reading[None]:
    """The arguments of the call that was started; even what is no object ends where its JSON ends."""
    reader = CallReader(strict=False)
    for char in '{"arguments":':
        reader.feed(char)
    sent, whole = 0, False
    while not whole and not reader.failed and (yield from cursor.more()):
        length = 0
        for char in cursor.rest:
            reader.feed(char)
            length += 1
            whole = has_whole_arguments(reader)
            if whole or reader.failed:
                break
        cursor.take(length)
        if len(reader.arguments) > sent:
            yield CallArguments(reader.arguments[sent:])
            sent = len(reader.arguments)
    yield CallEnded(whole or reader.failed)


def has_whole_arguments(reader: CallReader) -> bool:
    """Whether the arguments have been closed, though the object around them may not be."""
    return reader.has_arguments and reader.depth == 1


def dumped(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False)
