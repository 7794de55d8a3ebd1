"""Calls as Python writes them: `get_weather(city="Paris", days=3)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat import lark
from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.json_text import dumped
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted
from worker.chat.formats.record import Tools
from worker.chat.schema.enforceable import Schema, json_rule

_HEAD = re.compile(r"(?P<name>[A-Za-z_][\w.-]*)\s*\(")
_MAX_DEPTH = 64  # of brackets; Python's parser recurses
_NAMES = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True, slots=True)
class PythonCall:
    """Keyword arguments, or some in the order of the tool's parameters; values in Python or JSON."""

    begins: str = ""
    markers: Sequence[str] = ()

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        head = yield from cursor.match("", _HEAD)
        if head is None or head["name"] not in tools:
            return False
        name = head["name"]
        text = yield from _bracketed(cursor)
        if text is None:
            yield CallStarted(name)
            yield CallEnded(complete=False)
            return True
        arguments = _arguments(text, tools[name] or {})
        if arguments is None:
            return False
        yield CallStarted(name)
        yield CallArguments(dumped(arguments))
        yield CallEnded()
        return True

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        properties, required = arguments.get("properties", {}), set(arguments.get("required", ()))
        rules = []
        for number, (key, schema) in enumerate(properties.items()):
            rooted = {**schema, "$defs": arguments["$defs"]} if "$defs" in arguments else schema
            rules.append(f"{rule}_{number}: {constraints.written(key + '=')} {rule}_{number}_value")
            rules.append(f"{rule}_{number}_value: {json_rule(rooted)}")
        parts = [(f"{rule}_{number}", key in required) for number, key in enumerate(properties)]
        return [f'{rule}: {constraints.written(name + "(")} {lark.listed(parts, ", ")} ")"', *rules]


def _bracketed(cursor: Cursor) -> Reading[str | None]:
    """The text up to the bracket that closes the one before the cursor; None if the text ends before."""
    depth, quote, escaped = 1, "", False
    text: list[str] = []
    while (yield from cursor.more()):
        char = cursor.take(1)
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
            if depth == 0:
                return "".join(text)
            if depth > _MAX_DEPTH:
                return ""
        text.append(char)
    return None


def _arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """None where it is no list of arguments."""
    try:
        call = ast.parse(f"f({_one_line(text)})", mode="eval").body
        assert isinstance(call, ast.Call)
        names = list(schema.get("properties", {}))
        arguments = {name: _value(item) for name, item in zip(names, call.args, strict=False)}
        return arguments | {item.arg: _value(item.value) for item in call.keywords if item.arg is not None}
    except (ValueError, SyntaxError, RecursionError, MemoryError, AssertionError):
        return None


def _one_line(text: str) -> str:
    """Models write line breaks into strings, where Python has none."""
    parts = re.split(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", text, flags=re.DOTALL)
    return "".join(
        part.replace("\n", "\\n").replace("\r", "\\r") if number % 2 else part.replace("\n", " ")
        for number, part in enumerate(parts)
    )


def _value(node: ast.expr) -> Any:
    """A literal, with JSON's words too. Raises ValueError for anything else."""
    match node:
        case ast.Name(id=name) if name.lower() in _NAMES:
            return _NAMES[name.lower()]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {str(_value(key)): _value(value) for key, value in pairs if key is not None}
        case _:
            value = ast.literal_eval(node)
            if not isinstance(value, str | int | float | bool | None):
                raise ValueError
            return value
