"""How much a schema becomes inside llguidance, which copies what a reference beside others stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.chat.schema.shapes import IN_PLACE

# In schemas. One of 20 levels, each with two references that are copied, took 4 GB.
MAX_SIZE = 30_000
MAX_STEPS = 10 * MAX_SIZE
MAX_PATH = 100

_STRUCTURE = {"properties", "patternProperties", "additionalProperties", "prefixItems", "items"}


class TooLarge(Exception):
    """A schema that would take minutes, or all memory."""


class Composition:
    """Whether several parts of a schema are about the inside of one value, so that they have to be merged."""

    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        self._resolve = resolve
        self._num_steps = 0

    def is_composed(self, schema: Mapping[str, Any]) -> bool:
        all_of, any_of, one_of = (schema.get(keyword, ()) for keyword in ("allOf", "anyOf", "oneOf"))
        groups = [any_of, one_of, *([part] for part in all_of)]
        if "$ref" in schema:
            groups.append([self._resolve(schema["$ref"])])
        inner = sum(any(map(self._is_structured, group)) for group in groups)
        return inner + bool(_STRUCTURE & schema.keys()) > 1

    def _is_structured(self, schema: Any) -> bool:
        todo, seen = [schema], set()
        while todo:
            schema = todo.pop()
            if not isinstance(schema, Mapping) or id(schema) in seen:
                continue
            self._num_steps += 1
            if self._num_steps > MAX_STEPS:
                raise TooLarge
            if _STRUCTURE & schema.keys():
                return True
            seen.add(id(schema))
            todo += [part for keyword in IN_PLACE[:3] for part in _list(schema.get(keyword))]
            if "$ref" in schema:
                todo.append(self._resolve(schema["$ref"]))
        return False


class Sizes:
    """Counts the rebuilt `definitions`, as they are when everything that has to be copied is."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._composition = Composition(lambda reference: definitions[_name(reference)])
        self._sizes: dict[str, int] = {}
        self._count = 0

    def check(self) -> None:
        """Raises TooLarge. Most definitions come after those that they refer to."""
        total = 0
        for name, schema in self._definitions.items():
            self._count = 0
            self._add(schema, None)
            self._sizes[name] = self._count
            total += self._count
            if total > MAX_SIZE:
                raise TooLarge

    def _grow(self, number: int) -> None:
        self._count += number
        if self._count > MAX_SIZE:
            raise TooLarge

    def _add(self, schema: Any, path: frozenset[str] | None) -> None:
        """`path` are the references that lead here, where each of them is followed and not only copied."""
        self._grow(1)
        if not isinstance(schema, Mapping):
            return
        if path is None and self._composition.is_composed(schema):
            path = frozenset()
        self._grow(_num_values([schema.get("const"), schema.get("enum")]))
        for part in _parts(schema):
            self._add(part, path)
        alone = len(schema) == 1 and "allOf" not in schema
        for reference in [schema.get("$ref"), *(part.get("$ref") for part in _branches(schema))]:
            if reference is not None and not (alone and path is None):
                self._copy(_name(reference), path)

    def _copy(self, name: str, path: frozenset[str] | None) -> None:
        if path is None:
            self._grow(self._sizes.get(name, 1))
        elif name not in path:
            if len(path) > MAX_PATH:
                raise TooLarge
            self._add(self._definitions[name], path | {name})


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword in ("properties", "patternProperties"):
        yield from schema.get(keyword, {}).values()
    for keyword in ("prefixItems", *IN_PLACE[:3]):
        yield from schema.get(keyword, ())
    yield from (schema[keyword] for keyword in ("items", "additionalProperties") if keyword in schema)


def _branches(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for keyword in IN_PLACE[:3]:
        yield from (part for part in schema.get(keyword, ()) if isinstance(part, Mapping))


def _num_values(value: Any) -> int:
    number, todo = 0, [value]
    while todo:
        number += 1
        value = todo.pop()
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return number


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]
