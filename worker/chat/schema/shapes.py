"""Which keywords make a value invalid, and what JSON Schema allows each of them to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from worker.chat.schema.document import SchemaError

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MAX_COUNT = 500_000

KEYWORDS_OF = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Those that bring further schemas for the very same value.
IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
HANDLED = {keyword for keywords in KEYWORDS_OF.values() for keyword in keywords}
HANDLED |= {"type", "enum", "const", *IN_PLACE}
# Keywords that no grammar holds, with the values in which they say nothing.
UNENFORCEABLE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("$dynamicRef", "$recursiveRef", "not", "if", "contains"), lambda value: False),
    **dict.fromkeys(("dependentSchemas", "dependentRequired", "dependencies"), lambda value: value == {}),
    "propertyNames": lambda value: value in (True, {}, {"type": "string"}),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), lambda value: value in (True, {})),
    "uniqueItems": lambda value: value is False,
}


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
            return is_type(value, "number") and value == value // 1
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def check_shapes(schema: Any, at: str) -> None:
    """Raises SchemaError for a part that is no schema, or a keyword whose value it cannot have."""
    if not isinstance(schema, Mapping):
        raise SchemaError(at, "a schema should be an object or a boolean")
    for keyword, value in schema.items():
        if keyword in _SHAPES:
            is_valid, shape = _SHAPES[keyword]
            if not is_valid(value):
                raise SchemaError(at, f"'{keyword}' should be {shape}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_long_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type_name(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_count(value: Any) -> bool:
    return is_type(value, "integer") and 0 <= value <= MAX_COUNT


def _is_bound(value: Any) -> bool:
    # Python's own comparison, for whole numbers that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_exclusive_bound(value: Any) -> bool:
    return isinstance(value, bool) or _is_bound(value)


def _is_divisor(value: Any) -> bool:
    return _is_bound(value) and value > 0


_Shape = tuple[Callable[[Any], bool], str]
_SCHEMAS: _Shape = (_is_object, "an object of schemas")
_TYPE_NAMES = f"among {', '.join(TYPES)}, or a list of these that is not empty"
_SHAPES: dict[str, _Shape] = {
    "type": (_is_type_name, _TYPE_NAMES),
    "enum": (_is_long_list, "a list that is not empty"),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), (_is_long_list, "a list of schemas that is not empty")),
    **dict.fromkeys(("properties", "patternProperties"), _SCHEMAS),
    "required": (_are_names, "a list of strings"),
    "prefixItems": (_is_list, "a list of schemas"),
    **dict.fromkeys(COUNTS, (_is_count, f"a whole number from 0 to {MAX_COUNT}")),
    **dict.fromkeys(("pattern", "format"), (_is_string, "a string")),
    **dict.fromkeys(("minimum", "maximum"), (_is_bound, "a finite number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"), (_is_exclusive_bound, "a finite number, or a boolean")
    ),
    "multipleOf": (_is_divisor, "a number above 0"),
}
