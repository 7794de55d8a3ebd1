"""Reads one tool call out of a JSON object while it is still being written."""

from __future__ import annotations

import json
from enum import Enum

NAME_KEYS = frozenset({"name", "function", "tool_name"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"type", "id", "tool_call_id"})


class _Expect(Enum):
    KEY = 0
    COLON = 1
    VALUE = 2


class CallReader:
    """`{"name": "f", "arguments": {…}}`, keys in any order, fed a character at a time.

    `name` is known once its string is complete, `arguments` grows as they are written: the object's own
    text, or what the string holds if the model wrote the arguments as one. `failed` means that this is
    not a call.
    """

    def __init__(self, *, strict: bool) -> None:
        """`strict` fails on keys that calls do not have: where any other JSON might stand as well."""
        self._strict = strict
        self._expect = _Expect.KEY
        self.depth = 0
        self._in_string = self._escaped = False
        self._key = ""
        self._value: list[str] = []  # of the key or value being read
        self._value_closed = False  # a string or container that is complete
        self.name: str | None = None
        self.arguments = ""
        self.has_arguments = self.done = self.failed = False

    def feed(self, char: str) -> None:
        if self._in_string:
            self._in_string = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
            self._take(char)
            if not self._in_string and self.depth == 1:
                self._value_closed = True
                self._string_ended()
        elif char in " \t\r\n":
            if self.depth > 1:
                self._take(char)
        else:
            self._structure(char)

    def _structure(self, char: str) -> None:
        if char == '"':
            self._begin_value()
            self._in_string = True
            self._take(char)
        elif char in "{[":
            self.depth += 1
            if self.depth > 1:
                if self.depth == 2:
                    self._begin_value(container=True)
                self._take(char)
        elif char in "}]":
            self._close(char)
        elif self.depth > 1:
            self._take(char)
        elif char == ":" and self._expect is _Expect.COLON:
            self._expect = _Expect.VALUE
        elif char == "," and self._expect is _Expect.VALUE and self._value:
            self._end_value()
            self._expect = _Expect.KEY
        elif self._expect is _Expect.VALUE and not self._value_closed:
            self._take(char)  # a number, true, false or null
        else:
            self.failed = True

    def _begin_value(self, *, container: bool = False) -> None:
        if self.depth == 1 or container:
            fits = self._expect is _Expect.VALUE or (self._expect is _Expect.KEY and not container)
            if not fits or self._value:
                self.failed = True
            if container and self._key in ARGUMENT_KEYS:
                self.failed |= self.has_arguments
                self.has_arguments = True

    def _take(self, char: str) -> None:
        if self.depth > 1 and self._key in ARGUMENT_KEYS and self._expect is _Expect.VALUE:
            self.arguments += char
            self._value[:] = ["…"]  # something, so that a second value is noticed
        else:
            self._value.append(char)

    def _string_ended(self) -> None:
        if self._expect is _Expect.KEY:
            self._key = _decoded("".join(self._value))
            self._value.clear()
            self._value_closed = False
            self._expect = _Expect.COLON
            known = NAME_KEYS | ARGUMENT_KEYS | OTHER_KEYS
            if self._strict and self._key not in known:
                self.failed = True
        elif self._key in NAME_KEYS:
            self.name = _decoded("".join(self._value))

    def _close(self, char: str) -> None:
        self.depth -= 1
        if self.depth == 0:
            if self._value:
                self._end_value()
            self.done = char == "}" and not self.failed
            self.failed |= char != "}"
        else:
            self._take_closing(char)

    def _take_closing(self, char: str) -> None:
        self.depth += 1
        self._take(char)
        self.depth -= 1
        if self.depth == 1:
            self._value_closed = True

    def _end_value(self) -> None:
        if self._key in ARGUMENT_KEYS and not self.has_arguments:
            self._scalar_arguments("".join(self._value))
        self._value.clear()
        self._value_closed = False

    def _scalar_arguments(self, text: str) -> None:
        """Some models write the arguments as a JSON string, or null for none."""
        self.has_arguments = True
        self.arguments = _decoded(text) if text.startswith('"') else "{}"
        self.failed |= not text.startswith('"') and text != "null"


def _decoded(string: str) -> str:
    try:
        return str(json.loads(string, strict=False))
    except ValueError:
        return string.strip('"')
