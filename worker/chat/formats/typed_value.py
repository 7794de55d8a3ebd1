"""Values of parameters that are written without JSON's quotes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from worker.chat import lark
from worker.chat.constraint import Constraints
from worker.chat.schema.enforceable import Schema, json_rule

_PYTHON = {"True": True, "False": False, "None": None}


def branches_of(schema: Any, root: Mapping[str, Any], depth: int = 8) -> Iterator[Mapping[str, Any]]:
    """The schema, and what its references and alternatives come to."""
    if not isinstance(schema, Mapping) or depth == 0:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        yield from branches_of(_resolved(reference, root), root, depth - 1)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(alternatives := schema.get(keyword), list):
            for alternative in alternatives:
                yield from branches_of(alternative, root, depth - 1)


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a schema allows; none, if it does not say."""
    return frozenset(name for branch in branches_of(schema, root) for name in _own_types(branch))


def _own_types(schema: Mapping[str, Any]) -> Iterator[str]:
    given = schema.get("type")
    if isinstance(given, str):
        yield given
    elif isinstance(given, list):
        yield from filter(lambda name: isinstance(name, str), given)
    elif isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        yield from map(_type_of, values)


def typed(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """A parameter's text as the JSON value that its schema asks for; as text where it is no such value."""
    types = types_of(schema, root)
    if types == {"string"}:
        return text
    value = _parsed(text.strip())
    if value is None and text.strip() not in ("null", "None"):
        return text
    if (
        "string" in types
        and _type_of(value) not in types
        and not (_type_of(value) == "integer" and "number" in types)
    ):
        return text
    return value


def value_rules(rule: str, schema: Schema, root: Schema, end: str, constraints: Constraints) -> list[str]:
    """In Lark: `rule`, a value and the `end` behind it. Strings have no quotes, all else is JSON."""
    if types_of(schema, root) != {"string"}:
        return [
            f"{rule}: {rule}_json {constraints.written(end)}",
            f"{rule}_json: {json_rule(_rooted(schema, root))}",
        ]
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values:
        return [f"{rule}: {lark.either(map(lark.literal, filter(None, values)))} {constraints.written(end)}"]
    if (
        isinstance(pattern := schema.get("pattern"), str)
        and pattern.startswith("^")
        and pattern.endswith("$")
    ):
        try:
            return [
                f"{rule}: {rule.upper()}_TEXT {constraints.written(end)}",
                f"{rule.upper()}_TEXT: {lark.regex(pattern[1:-1])}",
            ]
        except ValueError:
            pass
    return [constraints.until(rule, end)]


def _rooted(schema: Schema, root: Schema) -> Schema:
    return {**schema, "$defs": root["$defs"]} if "$defs" in root else schema


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _parsed(text: str) -> Any:
    """JSON or, as templates write objects that nobody turned into JSON, Python; None where it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _PYTHON[text] if text in _PYTHON else _python(text)


def _python(text: str) -> Any:
    if not text.startswith(("{", "[")):
        return None
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"
