"""Whether a document is a JSON Schema that a compiler can rely on: well formed, and without circles."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.chat.grammar.schema_algebra import TYPES, SchemaError, is_type, resolve

# Of arrays and objects, so that recursion over any part of a document stays within Python's limit.
MAX_NESTING = 150
MAX_COUNT = 500_000

_SURROGATE = re.compile("[\ud800-\udfff]")
_COUNT = f"a whole number from 0 to {MAX_COUNT}"


def check(document: Mapping[str, Any]) -> None:
    """Raises SchemaError for a part that is no schema, or that refers to itself and says nothing else."""
    check_nesting(document)
    _check_strings(document)
    walk = _Walk(document)
    walk.check()
    walk.check_circles()


def check_nesting(document: Any) -> None:
    """Raises SchemaError for what a template or JSON's own writer would give up on."""
    level, nesting = [document], 0
    while level := [child for value in level for child in _children(value)]:
        nesting += 1
        if nesting > MAX_NESTING:
            raise SchemaError("", f"its arrays and objects nest deeper than {MAX_NESTING} levels")


def _check_strings(document: Any) -> None:
    """JSON can spell half of a character, which no grammar can."""
    todo = [document]
    while todo:
        value = todo.pop()
        names = [value] if isinstance(value, str) else value if isinstance(value, Mapping) else []
        if any(_SURROGATE.search(name) for name in names):
            raise SchemaError("", "one of its strings has a surrogate that is not half of a pair")
        todo += _children(value)


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


@dataclass(slots=True)
class _Walk:
    """Every schema that can be reached, with its place and with those that are about the same value."""

    document: Mapping[str, Any]
    places: dict[int, str] = field(default_factory=dict)
    same_value: dict[int, list[int]] = field(default_factory=dict)

    def check(self) -> None:
        todo: list[tuple[Any, str]] = [(self.document, "")]
        while todo:
            schema, at = todo.pop()
            if isinstance(schema, bool) or id(schema) in self.places:
                continue
            _check_keywords(schema, at)
            self.places[id(schema)] = at
            same = list(self._same_value(schema, at))
            self.same_value[id(schema)] = [id(part) for part, _ in same]
            todo += [*same, *_parts(schema, at)]

    def _same_value(self, schema: Mapping[str, Any], at: str) -> Iterator[tuple[Any, str]]:
        if "$ref" in schema:
            yield resolve(self.document, schema["$ref"], at), schema["$ref"]
        for keyword in ("allOf", "anyOf", "oneOf"):
            for index, part in enumerate(schema.get(keyword, [])):
                yield part, f"{at}/{keyword}/{index}"

    def check_circles(self) -> None:
        """A schema that is part of itself, about the same value, never gets to say what that value is."""
        done: set[int] = set()
        for start in self.places:
            path: dict[int, Iterator[int]] = {}
            following: int | None = start
            while following is not None:
                if following in path:
                    raise SchemaError(self.places[following], "its '$ref' leads back to itself")
                if following not in done:
                    path[following] = iter(self.same_value.get(following, ()))
                following = self._next(path, done)

    @staticmethod
    def _next(path: dict[int, Iterator[int]], done: set[int]) -> int | None:
        while path:
            last = next(reversed(path))
            following = next(path[last], None)
            if following is not None:
                return following
            done.add(last)
            del path[last]
        return None


def _parts(schema: Mapping[str, Any], at: str) -> Iterator[tuple[Any, str]]:
    """The schemas of a value's own parts."""
    for name, part in schema.get("properties", {}).items():
        yield part, f"{at}/properties/{name}"
    for keyword in ("items", "additionalItems", "additionalProperties"):
        if keyword in schema and not _is_tuple(schema, keyword):
            yield schema[keyword], f"{at}/{keyword}"
    for keyword in ("items", "prefixItems"):
        if _is_tuple(schema, keyword):
            yield from ((part, f"{at}/{keyword}/{index}") for index, part in enumerate(schema[keyword]))


def _is_tuple(schema: Mapping[str, Any], keyword: str) -> bool:
    """Older drafts have the schemas of a tuple in `items`."""
    return keyword in ("items", "prefixItems") and isinstance(schema.get(keyword), list)


def _check_keywords(schema: Any, at: str) -> None:
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


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type_name(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_count(value: Any) -> bool:
    return is_type(value, "integer") and 0 <= value <= MAX_COUNT


def _is_bound(value: Any) -> bool:
    # Python's own comparison, for whole numbers that no float can hold.
    return is_type(value, "number") and -math.inf < value < math.inf


def _is_json(value: Any) -> bool:
    """JSON has no infinite numbers, and Python's own reader makes them of those that are too large."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return False
        todo += _children(value)
    return True


_JSON = "JSON, whose numbers are finite"
_TYPE_NAMES = f"among {', '.join(TYPES)}, or a list of these that is not empty"
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type_name, _TYPE_NAMES),
    "const": (_is_json, _JSON),
    "enum": (lambda value: _is_long_list(value) and _is_json(value), f"a list that is not empty, of {_JSON}"),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), (_is_long_list, "a list of schemas that is not empty")),
    "properties": (lambda value: isinstance(value, Mapping), "an object of schemas"),
    "required": (_are_names, "a list of strings"),
    "prefixItems": (_is_list, "a list of schemas"),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), (_is_count, _COUNT)),
    **dict.fromkeys(("pattern", "format"), (lambda value: isinstance(value, str), "a string")),
    **dict.fromkeys(("minimum", "maximum"), (_is_bound, "a finite number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (lambda value: isinstance(value, bool) or _is_bound(value), "a finite number, or a boolean"),
    ),
}
