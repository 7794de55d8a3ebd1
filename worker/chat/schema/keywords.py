"""Single keywords of a schema: older spellings, and values that llguidance would get wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from worker.chat.schema.shapes import COUNTS, IN_PLACE, KEYWORDS_OF, TYPES, is_type

_LARGEST = 2**63  # it computes with 64 bits
_CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")


def modern(schema: dict[str, Any]) -> dict[str, Any]:
    """Draft 4 had a boolean beside a bound that is itself excluded; and counts may be written as 2.0."""
    schema = {keyword: int(value) if keyword in COUNTS else value for keyword, value in schema.items()}
    for inclusive, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
    return schema


def implied_type(schema: Mapping[str, Any]) -> str | None:
    """The one type that the keywords are about, where only they tell."""
    if {"enum", "const", *IN_PLACE} & schema.keys():
        return None
    return next((kind for kind, keywords in KEYWORDS_OF.items() if schema.keys() & set(keywords)), None)


def declares_all(schema: Mapping[str, Any]) -> bool:
    """Whether an object names its properties, and does not say what others may be."""
    return "properties" in schema and not schema.keys() & {"additionalProperties", "patternProperties"}


def has_optional(schema: Mapping[str, Any]) -> bool:
    return not set(schema.get("properties", ())) <= set(schema.get("required", ()))


def is_map(schema: Mapping[str, Any]) -> bool:
    """Whether names may be written that an object does not list."""
    return schema.get("additionalProperties") is not False or "patternProperties" in schema


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An object that has the properties it names, and no others."""
    properties: dict[str, Any] = schema["properties"]
    named = {name: True for name in schema.get("required", ()) if name not in properties}
    return {**schema, "properties": {**properties, **named}, "additionalProperties": False}


def distinct_constants(branches: Sequence[Any]) -> list[Any] | None:
    """The values of branches that are constants and all different: exactly one of them is one of them."""
    values: list[Any] = []
    for branch in branches:
        constants = _constants(branch)
        if constants is None:
            return None
        values += constants
    return values if len({canonical(value) for value in values}) == len(values) else None


def _constants(branch: Any) -> list[Any] | None:
    if not isinstance(branch, Mapping) or len(branch.keys() & {"const", "enum"}) != 1:
        return None
    if branch.keys() - {"const", "enum", "type"}:
        return None
    values = branch["enum"] if "enum" in branch else [branch["const"]]
    kinds = branch.get("type", TYPES)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return list(values) if all(any(is_type(value, kind) for kind in kinds) for value in values) else None


def canonical(value: Any) -> str:
    """The same for what JSON Schema takes to be the same: 1 is 1.0, but not true."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unfaithful(value: Any) -> str | None:
    """What of a JSON value would be written as something else."""
    todo = [value]
    while todo:
        value = todo.pop()
        if is_type(value, "number") and not (abs(value) < _LARGEST and float(value) == value):
            return "a number that 64 bits of floating point do not hold"
        if isinstance(value, str) and _CONTROL.search(value):
            return "a control character, which can only be escaped as \\u"
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return None


def num_remainders(divisors: Sequence[Decimal]) -> int:
    """How many remainders there are to tell apart where all of these apply: 25 for 2.5, 1 for 0.01."""
    exponents = [divisor.as_tuple().exponent for divisor in divisors]
    digits = max([0, *(-exponent for exponent in exponents if isinstance(exponent, int))])
    return math.lcm(*(int(divisor.scaleb(digits)) for divisor in divisors))
