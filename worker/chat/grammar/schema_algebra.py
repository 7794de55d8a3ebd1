"""JSON Schemas as sets of values: where a reference leads, what two have in common, whether they overlap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, combinations, product
from typing import Any
from urllib.parse import unquote

from worker.chat.grammar.gbnf import Budget

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

# Every keyword that can make a value invalid; all others are annotations.
ASSERTIONS = frozenset(
    (
        "$ref",
        "$dynamicRef",
        "$recursiveRef",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "unevaluatedItems",
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "pattern",
        "minLength",
        "maxLength",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    )
)
# How deep properties are looked into for a difference.
_DISJOINT_DEPTH = 8
_PAIR = 10  # steps of a budget, for each two schemas that are compared
_LARGER_WINS = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_SMALLER_WINS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


class SchemaError(ValueError):
    """A schema that cannot be enforced: `at` is a JSON pointer into it, `reason` says why."""

    def __init__(self, at: str, reason: str) -> None:
        place = f"at '{at.removeprefix('#')}'" if at.removeprefix("#") else "at its root"
        super().__init__(f"{place}, {reason}")
        self.at, self.reason = at, reason


class Unsatisfiable(SchemaError):
    """No value at all is valid."""


def resolve(document: Mapping[str, Any], reference: Any, at: str) -> Any:
    """The part of `document` that a JSON pointer such as `#/$defs/Item` leads to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise SchemaError(
            at, f"'$ref' can only point into the schema itself ('#/$defs/…'), not to {reference!r}"
        )
    target: Any = document
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and len(key) < 10 and int(key) < len(target):
            target = target[int(key)]
        else:
            raise SchemaError(at, f"'$ref' points to {reference!r}, which is not there")
    return target


def merge(one: Mapping[str, Any], other: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A schema for the values that are valid by both."""
    merged = dict(one)
    for keyword, value in other.items():
        if keyword not in merged or text(merged[keyword]) == text(value):
            merged[keyword] = value
        elif keyword == "type":
            merged["type"] = _common_types(merged["type"], value, at)
        elif keyword == "properties":
            merged["properties"] = _merged_properties(merged["properties"], value)
        elif keyword == "required":
            merged["required"] = list(dict.fromkeys([*merged["required"], *value]))
        elif keyword == "enum":
            merged["enum"] = common(merged["enum"], value)
        elif keyword in _LARGER_WINS:
            merged[keyword] = max(merged[keyword], value)
        elif keyword in _SMALLER_WINS:
            merged[keyword] = min(merged[keyword], value)
        elif keyword in ("anyOf", "oneOf", "allOf", "$ref"):
            merged["allOf"] = [
                *merged.get("allOf", []),
                *(value if keyword == "allOf" else [{keyword: value}]),
            ]
        elif keyword == "const":
            if not common([merged["const"]], [value]):
                raise Unsatisfiable(at, "two different values of 'const' apply at once")
        else:
            raise SchemaError(
                at, f"two different values of '{keyword}' that apply at once cannot be enforced"
            )
    _check_closed(one, other, at)
    return merged


def _merged_properties(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(one)
    for name, schema in other.items():
        if name in merged and text(merged[name]) != text(schema):
            merged[name] = {"allOf": [merged[name], schema]}
        else:
            merged[name] = schema
    return merged


def _check_closed(one: Mapping[str, Any], other: Mapping[str, Any], at: str) -> None:
    """A part that allows no more properties would forbid those that the other declares."""
    for closed, declaring in ((one, other), (other, one)):
        if closed.get("additionalProperties") is False:
            new = set(declaring.get("properties", {})) - set(closed.get("properties", {}))
            if new:
                reason = f"'additionalProperties': false in one part forbids '{min(new)}' of another"
                raise SchemaError(at, reason)


def _common_types(one: Any, other: Any, at: str) -> list[str]:
    ones, others = (names if isinstance(names, list) else [names] for names in (one, other))
    common = [name for name in ones if name in others or (name == "integer" and "number" in others)]
    common += [name for name in others if name == "integer" and "number" in ones and name not in common]
    if not common:
        raise Unsatisfiable(at, "two different values of 'type' apply at once")
    return common


def text(value: Any) -> str:
    """The same for the same JSON, unlike Python's `==`, to which 1 is true."""
    return json.dumps(value, sort_keys=True)


def common(values: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Those of `values` that are among `others`, as JSON Schema compares them: 1 is 1.0, but not true."""
    known = {_key(other) for other in others}
    return [value for value in values if _key(value) in known]


def _key(value: Any) -> str:
    return text(_with_whole_numbers(value))


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_type(value: Any, kind: str) -> bool:
    """Whether a JSON value is of JSON Schema's type `kind`."""
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, Mapping)
        case "integer":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def all_disjoint(schemas: list[Any], inlined: Callable[[Any], Any], steps: Budget) -> bool:
    """Whether no value is valid by two of them, as far as types, constants and required properties tell.

    `inlined` gives a schema with what it refers to in place of the reference.
    """
    known: set[str] = set()
    constant = [schema for schema in schemas if _constants(schema)]
    for constants in map(_constants, constant):
        keys = {_key(value) for value in constants or []}
        if keys & known:
            return False
        known |= keys
    others = [schema for schema in schemas if not _constants(schema)]
    return all(
        _disjoint(one, other, inlined, steps, _DISJOINT_DEPTH)
        for one, other in chain(combinations(others, 2), product(others, constant))
    )


def _disjoint(one: Any, other: Any, inlined: Callable[[Any], Any], steps: Budget, depth: int) -> bool:
    steps.spend(_PAIR)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    ones, others = _constants(one), _constants(other)
    if ones is not None and others is not None:
        return not common(ones, others)
    if not _types_overlap(one, other, ones, others):
        return True
    if depth == 0 or not (_is_object(one) and _is_object(other)):
        return False
    both = set(one.get("required", [])) & set(other.get("required", []))
    return any(
        _disjoint(
            inlined(one["properties"][name]), inlined(other["properties"][name]), inlined, steps, depth - 1
        )
        for name in sorted(both)
        if name in one.get("properties", {}) and name in other.get("properties", {})
    )


def _is_object(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("type", "object") == "object")


def _constants(schema: Any) -> list[Any] | None:
    if not isinstance(schema, Mapping):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _types_overlap(
    one: Mapping[str, Any], other: Mapping[str, Any], ones: list[Any] | None, others: list[Any] | None
) -> bool:
    types, other_types = _types(one, ones), _types(other, others)
    return types is None or other_types is None or bool(types & other_types)


def _types(schema: Mapping[str, Any], constants: list[Any] | None) -> set[str] | None:
    """The types that `schema` allows, integers counted among numbers; None where it does not say."""
    kinds = ("null", "boolean", "string", "array", "object", "number")
    if constants is not None:
        return {kind for kind in kinds if any(is_type(value, kind) for value in constants)}
    given = schema.get("type", "object" if "properties" in schema else None)
    if given is None:
        return None
    return {
        "number" if kind == "integer" else kind for kind in (given if isinstance(given, list) else [given])
    }
