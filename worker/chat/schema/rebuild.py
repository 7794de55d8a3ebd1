"""A client's schema written anew for llguidance: nothing reaches it that it does not know, or gets wrong.

What cannot be enforced is refused with its place, and so is what would crash it or take for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from worker.chat.schema import keywords
from worker.chat.schema.document import SchemaError, check_document, resolve
from worker.chat.schema.formats import BUILT_IN, PATTERNS
from worker.chat.schema.shapes import HANDLED, IN_PLACE, TYPES, UNENFORCEABLE, check_shapes
from worker.chat.schema.size import Composition, Sizes, TooLarge

MAX_DEPTH = 100  # it recurses, and runs out of stack somewhere beyond 900
MAX_PROPERTIES = 2_000
MAX_PATTERNS = 50
MAX_REMAINDERS = 10_000  # of as many states: 20,000,003 took 100 s

_VALUES = {"const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a schema stands: `inside` which definition about the same value, if any; `is_open` where others
    are merged with it, so that it must allow what it does not name.
    """

    at: str
    inside: str | None = None
    is_open: bool = False

    def inner(self, *path: str | int) -> _Place:
        return _Place("/".join([self.at, *map(str, path)]), None, self.is_open)

    def beside(self, *path: str | int) -> _Place:
        return _Place("/".join([self.at, *map(str, path)]), self.inside, self.is_open)


@dataclass
class Rebuild:
    """One document, or its part `at`; `parts` are the schemas in it as they have become, inner ones first.

    `lenient` leaves out what cannot be enforced, and without `patterns` all patterns. `narrow` closes objects
    that declare properties, since a small model would go on inventing others, and takes `oneOf` for `anyOf`;
    without it, all that the document allows is allowed, and llguidance has to prove every `oneOf`.
    """

    document: Any
    at: str = ""
    lenient: bool = False
    narrow: bool = True
    patterns: bool = True
    has_one_of: bool = False
    definitions: dict[str, Any] = field(default_factory=dict)
    parts: list[tuple[str, Any]] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict)
    _names: dict[tuple[int, bool], str] = field(default_factory=dict)
    _same_value: dict[str, set[str]] = field(default_factory=dict)
    _depth: int = 0
    _num_properties: int = 0
    _num_patterns: int = 0
    _divisors: list[Decimal] = field(default_factory=list)
    _foreign: int = 0  # how many of the schemas around have an `$id` of their own

    def schema(self) -> dict[str, Any]:
        """A reference to what the whole document has become, beside the `$defs`. Raises SchemaError."""
        check_document(self.document)
        try:
            target, at = resolve(self.document, f"#{self.at}", self.at)
            root = self._definition(target, _Place(at))
            self._check_circles()
            Sizes(self.definitions).check()
        except TooLarge:
            reason = "it is too large to be enforced; leave out or shorten parts of it"
            raise SchemaError("", reason) from None
        return {"$ref": f"#/$defs/{root}", "$defs": self.definitions}

    def _check_circles(self) -> None:
        """A schema that is part of itself, about the same value, never gets to say what that value is."""
        try:
            TopologicalSorter(self._same_value).prepare()
        except CycleError as error:
            raise SchemaError(self._places[error.args[1][0]], "its '$ref' leads back to itself") from None

    def _refuse(self, at: str, reason: str) -> None:
        if not self.lenient:
            raise SchemaError(at, reason)

    def _definition(self, target: Any, place: _Place) -> str:
        """The name of what `target` becomes: once where it may be closed, and once where not."""
        key = (id(target), place.is_open)
        if key not in self._names:
            name = self._names[key] = f"d{len(self._names)}"
            self._places[name] = place.at
            self._same_value[name] = set()
            schema = self._schema(target, _Place(place.at, name, place.is_open))
            self.definitions[name] = schema
        return self._names[key]

    def _schema(self, schema: Any, place: _Place) -> Any:
        if isinstance(schema, bool):
            return schema
        check_shapes(schema, place.at)
        with self._deeper(schema, place.at):
            rebuilt = self._rebuilt(keywords.modern(self._assertions(schema, place.at)), place)
        self.parts.append((place.at, rebuilt))
        return rebuilt

    @contextmanager
    def _deeper(self, schema: Mapping[str, Any], at: str) -> Iterator[None]:
        own = schema.get("$id")
        is_foreign = schema is not self.document and isinstance(own, str) and not own.startswith("#")
        self._depth += 1
        self._foreign += is_foreign
        if self._depth > MAX_DEPTH:
            raise SchemaError(at, f"it nests deeper than {MAX_DEPTH} levels")
        yield
        self._depth -= 1
        self._foreign -= is_foreign

    def _assertions(self, schema: Mapping[str, Any], at: str) -> dict[str, Any]:
        """The keywords that constrain, in the client's order; annotations say nothing about what is valid."""
        kept = {}
        for keyword, value in schema.items():
            if keyword in HANDLED:
                kept[keyword] = value
            elif keyword in UNENFORCEABLE and not UNENFORCEABLE[keyword](value):
                if (
                    keyword == "unevaluatedProperties"
                    and value is False
                    and not schema.keys() & set(IN_PLACE)
                ):
                    kept["additionalProperties"] = schema.get("additionalProperties", False)
                elif keyword != "uniqueItems" or schema.get("maxItems", 2) > 1:
                    self._refuse(at, f"'{keyword}' cannot be enforced by a grammar")
        return kept

    def _rebuilt(self, kept: dict[str, Any], place: _Place) -> Any:
        if list(kept) == ["allOf"] and len(kept["allOf"]) == 1:
            return self._schema(kept["allOf"][0], place.beside("allOf", 0))
        if self._composition.is_composed(kept):
            place = _Place(place.at, place.inside, is_open=True)
        if self.narrow and not place.is_open and keywords.declares_all(kept):
            kept = keywords.closed(kept)
        rebuilt: dict[str, Any] = {}
        if kinds := kept.get("type") or self._missing_type(kept):
            rebuilt["type"] = kinds
        for keyword, value in kept.items():
            if keyword != "type":
                for name, part in self._keyword(keyword, value, kept, place):
                    _put(rebuilt, name, part)
        return rebuilt

    def _missing_type(self, kept: Mapping[str, Any]) -> str | list[str] | None:
        if self.narrow:
            return keywords.implied_type(kept)
        # Beside a type it looks into the references among the branches, to see whether they differ.
        return list(TYPES) if "oneOf" in kept else None

    def _keyword(
        self, keyword: str, value: Any, kept: Mapping[str, Any], place: _Place
    ) -> Iterator[tuple[str, Any]]:
        """What one keyword becomes: nothing, itself, or another."""
        match keyword:
            case "properties" | "patternProperties":
                yield from self._properties(keyword, value, place)
            case "prefixItems" | "items" if isinstance(value, list):  # before 2020 `items` had the tuples
                parts = [self._schema(part, place.inner(keyword, i)) for i, part in enumerate(value)]
                yield "prefixItems", parts
            case "additionalItems":
                if isinstance(kept.get("items"), list):
                    yield "items", self._schema(value, place.inner(keyword))
            case "items" | "additionalProperties":
                yield keyword, self._schema(value, place.inner(keyword))
            case "allOf" | "anyOf":
                yield keyword, [self._schema(part, place.beside(keyword, i)) for i, part in enumerate(value)]
            case "oneOf":
                yield self._one_of(value, place)
            case "$ref":
                yield keyword, f"#/$defs/{self._reference(value, place)}"
            case "pattern" if not self.patterns:
                pass
            case _ if reason := self._unenforceable(keyword, value, kept):
                self._refuse(place.at, reason)
            case "format" if value in PATTERNS:
                yield "allOf", [{"pattern": PATTERNS[value]}]
            case "format" if self.narrow:
                yield "allOf", [{"format": value, "maxLength": BUILT_IN[value]}]
            case _:
                yield keyword, value

    def _unenforceable(self, keyword: str, value: Any, kept: Mapping[str, Any]) -> str | None:
        """Why llguidance would not hold to a keyword with this value."""
        match keyword:
            case "format" if value not in PATTERNS and value not in BUILT_IN:
                known = ", ".join(sorted([*PATTERNS, *BUILT_IN]))
                return f"the format {value!r} cannot be enforced; these can: {known}"
            case "minProperties" if value - len(kept.get("required", ())) > 1 and keywords.is_map(kept):
                return "'minProperties' cannot be enforced where names are free: the same may come twice"
            case "minProperties" | "maxProperties" if self.lenient and keywords.has_optional(kept):
                return f"'{keyword}' cannot be enforced beside properties that may be left out"
            case "multipleOf" if self._num_remainders(value) > MAX_REMAINDERS:
                return f"'multipleOf' cannot be enforced beyond {MAX_REMAINDERS}, or all of them multiplied"
            case _ if keyword in _VALUES and (what := keywords.unfaithful(value)):
                return f"'{keyword}' has {what}"
        return None

    def _num_remainders(self, multiple_of: float) -> int:
        """With all others of the document, which might be about the same number."""
        self._divisors.append(Decimal(str(multiple_of)))
        return keywords.num_remainders(self._divisors)

    def _properties(
        self, keyword: str, schemas: Mapping[str, Any], place: _Place
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if keyword == "properties":
            self._num_properties += len(schemas)
        elif self.patterns:
            self._num_patterns += len(schemas)
        else:
            return
        if self._num_properties > MAX_PROPERTIES or self._num_patterns > MAX_PATTERNS:
            raise SchemaError(place.at, f"there are too many of '{keyword}' to be enforced")
        yield (
            keyword,
            {name: self._schema(part, place.inner(keyword, name)) for name, part in schemas.items()},
        )

    def _one_of(self, branches: list[Any], place: _Place) -> tuple[str, Any]:
        rebuilt = [self._schema(part, place.beside("oneOf", i)) for i, part in enumerate(branches)]
        if (constants := keywords.distinct_constants(rebuilt)) is not None:
            return "enum", constants
        self.has_one_of = self.has_one_of or len(branches) > 1
        return "anyOf" if self.narrow else "oneOf", rebuilt

    def _reference(self, reference: Any, place: _Place) -> str:
        target, at = resolve(self.document, reference, place.at)
        if self._foreign:
            raise SchemaError(place.at, "a '$ref' below an '$id' of its own cannot be followed")
        name = self._definition(target, _Place(at, None, place.is_open))
        if place.inside is not None:
            self._same_value[place.inside].add(name)
        return name

    @cached_property
    def _composition(self) -> Composition:
        def target(reference: Any) -> Any:
            try:
                return resolve(self.document, reference, "")[0]
            except SchemaError:
                return True  # `_reference` says where it stands

        return Composition(target)


def _put(rebuilt: dict[str, Any], keyword: str, value: Any) -> None:
    """Beside what is there: keywords that have become the same apply both."""
    if keyword == "allOf":
        rebuilt["allOf"] = [*rebuilt.get("allOf", ()), *value]
    elif keyword in rebuilt:
        rebuilt["allOf"] = [*rebuilt.get("allOf", ()), {keyword: value}]
    else:
        rebuilt[keyword] = value
