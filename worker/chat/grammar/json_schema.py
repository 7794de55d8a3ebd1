"""JSON Schema as GBNF: everything that the grammar lets through is valid, what it cannot hold is refused.

The grammar may be narrower than the schema where that costs nothing: properties come in the schema's
order, and objects that declare properties get no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from typing import Any

from worker.chat.grammar.gbnf import Exhausted, Grammar, either, literal
from worker.chat.grammar.numbers import decimals, integers
from worker.chat.grammar.pattern import UnsupportedPattern, pattern_rule
from worker.chat.grammar.schema_algebra import (
    ASSERTIONS,
    TYPES,
    SchemaError,
    Unsatisfiable,
    all_disjoint,
    common,
    is_type,
    merge,
    resolve,
    text,
)
from worker.chat.grammar.schema_check import check

MAX_DEPTH = 64
_STEPS = 20  # of the grammar's budget, for each schema

_KEYWORDS_OF = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_KEYWORDS_OF["integer"] = _KEYWORDS_OF["number"]
_HANDLED = {keyword for keywords in _KEYWORDS_OF.values() for keyword in keywords}
_HANDLED |= {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}

# Values of unsupported keywords that say nothing, so that they may stand.
_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "uniqueItems": lambda value: value is False,
    "minProperties": lambda value: value == 0,
    "propertyNames": lambda value: value in (True, {}, {"type": "string"}),
    "patternProperties": lambda value: value == {},
    "dependentRequired": lambda value: value == {},
    "unevaluatedProperties": lambda value: True,  # what declares no other properties gets none
    "unevaluatedItems": lambda value: value is True,
}

_DAY = (
    "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|02-(0[1-9]|1[0-9]|2[0-8])))"
)
_TIME = r"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"
_LABEL = "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_FORMATS = {
    "date": f"^{_DAY}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DAY}T{_TIME}$",
    "duration": "^P([0-9]{1,4}D(T[0-9]{1,2}H)?|T[0-9]{1,4}[HMS]|[0-9]{1,3}W)$",
    "uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "email": rf"^[A-Za-z0-9_+-]{{1,32}}(\.[A-Za-z0-9_+-]{{1,32}}){{0,3}}@({_LABEL}\.){{1,3}}[a-z]{{2,12}}$",
    "hostname": rf"^({_LABEL}\.){{0,3}}{_LABEL}$",
    "ipv4": rf"^({_BYTE}\.){{3}}{_BYTE}$",
    "ipv6": "^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "uri": rf"^https?://({_LABEL}\.){{1,3}}[a-z]{{2,12}}(/[A-Za-z0-9._~-]{{0,64}}){{0,8}}$",
}


class SchemaGrammar:
    """Compiles one schema document into `grammar`.

    `lenient` drops constraints that a grammar cannot hold instead of raising SchemaError.
    """

    def __init__(self, grammar: Grammar, document: Mapping[str, Any], *, lenient: bool = False) -> None:
        self._grammar, self._document, self._lenient = grammar, document, lenient
        self._rules: dict[str, str] = {}
        self._patterns: dict[str, str] = {}
        self._depth = 0

    def root(self) -> str:
        check(self._document)
        try:
            return self._grammar.add("schema", self._value(self._document, ""))
        except Exhausted as error:
            raise SchemaError(
                "", "it is too large to be enforced; leave out or shorten parts of it"
            ) from error

    def _value(self, schema: Any, at: str) -> str:
        """An expression for the values that `schema` allows; `at` is its place, for messages and names."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SchemaError(at, f"it nests deeper than {MAX_DEPTH} levels")
        self._grammar.schema_steps.spend(_STEPS)
        try:
            return self._expression(schema, at)
        finally:
            self._depth -= 1

    def _expression(self, schema: Any, at: str) -> str:
        if schema is True:
            return self._grammar.primitive("value")
        if schema is False:
            raise SchemaError(at, "nothing is allowed")
        schema = self._assertions(schema, at)
        # Before `allOf`, which keeps all but one of these where its parts have several.
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._branches(schema, keyword, at)
        if "$ref" in schema or "allOf" in schema:
            return self._shared(schema, at)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, at)
        types = _types_of(schema)
        if types is None:
            return self._grammar.primitive("value")
        return either(self._typed(schema, kind, at) for kind in types)

    def _assertions(self, schema: Mapping[str, Any], at: str) -> dict[str, Any]:
        """The keywords that constrain; annotations say nothing about what is valid."""
        kept = {}
        for keyword, value in schema.items():
            if keyword in _HANDLED:
                kept[keyword] = value
            elif keyword in ASSERTIONS and not _HARMLESS.get(keyword, lambda _: False)(value):
                single = keyword == "uniqueItems" and schema.get("maxItems", 2) <= 1
                if not (self._lenient or single or _multiple_of_one(schema, keyword)):
                    raise SchemaError(at, f"'{keyword}' cannot be enforced by a grammar")
        return _with_exclusive_bounds(kept)

    def _shared(self, schema: Mapping[str, Any], at: str) -> str:
        """One rule for every place with the same reference and the same keywords beside it."""
        key = text(schema)
        self._grammar.schema_steps.spend(len(key) // 100)
        if key not in self._rules:
            reference = schema.get("$ref", "")
            self._rules[key] = name = self._grammar.reserve(reference.rpartition("/")[2] or "all")
            try:
                if len(schema) == 1 and reference:
                    body = self._value(resolve(self._document, reference, at), reference)
                else:
                    body = self._value(self._flat(schema, at), at)
            except SchemaError:
                self._forget(key)
                raise
            self._grammar.define(name, body)
        return self._rules[key]

    def _forget(self, key: str) -> None:
        """A rule that failed, and those made since, which may refer to it."""
        while self._rules.popitem()[0] != key:
            pass

    def _merge(self, one: Mapping[str, Any], other: Any, at: str) -> dict[str, Any]:
        if isinstance(other, bool):
            if other:
                return dict(one)
            raise SchemaError(at, "nothing is allowed")
        self._grammar.schema_steps.spend(len(one) + len(other))
        return merge(one, self._assertions(other, at), at)

    def _flat(self, schema: Mapping[str, Any], at: str) -> dict[str, Any]:
        """`schema` with what it refers to, and with its `allOf` parts, merged into it."""
        merged: dict[str, Any] = dict(self._inlined(schema, at))
        for part in merged.pop("allOf", []):
            merged = self._merge(merged, self._inlined(part, at), at)
        return merged

    def _inlined(self, schema: Any, at: str) -> Any:
        """With what its `$ref` stands for in its place, so that it can be merged with others."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            siblings = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
            schema = self._merge(
                self._assertions(siblings, at), resolve(self._document, schema["$ref"], at), at
            )
        return schema

    def _branches(self, schema: Mapping[str, Any], keyword: str, at: str) -> str:
        rest = {name: value for name, value in schema.items() if name != keyword}
        branches = schema[keyword]
        if keyword == "oneOf" and not self._lenient:
            self._check_exclusive(branches, at)
        if not rest:
            return either(self._value(branch, f"{at}/{keyword}/{i}") for i, branch in enumerate(branches))
        expressions = []
        for i, branch in enumerate(branches):
            try:
                merged = self._merge(rest, self._inlined(branch, at), at)
                expressions.append(self._value(merged, f"{at}/{keyword}/{i}"))
            except Unsatisfiable:
                continue
        if not expressions:
            raise Unsatisfiable(at, f"no branch of '{keyword}' can be satisfied")
        return either(expressions)

    def _check_exclusive(self, branches: list[Any], at: str) -> None:
        flat = [self._inlined(branch, at) for branch in branches]
        if not all_disjoint(flat, lambda schema: self._inlined(schema, at), self._grammar.schema_steps):
            raise SchemaError(at, "'oneOf' cannot be enforced where branches overlap; use 'anyOf'")

    def _constants(self, schema: Mapping[str, Any], at: str) -> str:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if "const" in schema:
            values = common([schema["const"]], values)
        others = set(schema) - {"const", "enum", "type"}
        if others and not self._lenient:
            raise SchemaError(at, f"'{min(others)}' cannot be enforced beside 'enum' or 'const'")
        allowed = _type_names(schema) or TYPES
        values = [value for value in values if any(is_type(value, kind) for kind in allowed)]
        if not values:
            raise Unsatisfiable(at, "no value of 'enum' and 'const' is allowed by both and by 'type'")
        return either(literal(json.dumps(value, ensure_ascii=False)) for value in values)

    def _typed(self, schema: Mapping[str, Any], kind: str, at: str) -> str:
        match kind:
            case "object":
                return self._object(schema, at)
            case "array":
                return self._array(schema, at)
            case "string":
                return self._string(schema, at)
            case "number" | "integer":
                return self._number(schema, kind, at)
            case _:
                return self._grammar.primitive(kind)

    def _object(self, schema: Mapping[str, Any], at: str) -> str:
        required = dict.fromkeys(schema.get("required", []))
        additional = schema.get("additionalProperties", True)
        properties = dict(schema.get("properties", {}))
        for name in required:
            if additional is False and name not in properties:
                raise Unsatisfiable(at, f"'{name}' is required but not allowed")
            properties.setdefault(name, additional)
        if properties:
            return self._members(properties, required, at)
        if additional is False:
            return '"{" "}"'
        return self._map(self._value(additional, f"{at}/additionalProperties"), at)

    def _members(self, properties: Mapping[str, Any], required: Container[str], at: str) -> str:
        """The properties in their order; each that is not required may be left out."""
        ws = self._grammar.primitive("ws")
        members = []
        for name, schema in properties.items():
            value = self._value(schema, f"{at}/properties/{name}")
            key = literal(json.dumps(name, ensure_ascii=False))
            members.append((self._grammar.add(name, f'{key} ":" {ws} {value}'), name in required))
        # `some`: one of the members from here on, and what may follow it. They have the comma before them in
        # common, because llama.cpp would look for white space once behind each comma that there is.
        some, needed = "", False
        for member, is_required in reversed(members):
            more = "" if not some else f'"," {ws} {some}' if needed else f'("," {ws} {some})?'
            others = f" | {some}" if some and not is_required else ""
            some = self._grammar.add("members", f"{member} {more}{others}")
            needed = needed or is_required
        return self._grammar.add("object", f'"{{" {ws} {some}{"" if needed else "?"} {ws} "}}"')

    def _map(self, value: str, at: str) -> str:
        ws, string = self._grammar.primitive("ws"), self._grammar.primitive("string")
        member = self._grammar.add("member", f'{string} ":" {ws} {value}')
        return self._grammar.add("map", f'"{{" {ws} ({member} ("," {ws} {member})* {ws})? "}}"')

    def _array(self, schema: Mapping[str, Any], at: str) -> str:
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", True)
        if isinstance(items, list):  # the tuple form of older drafts
            prefix, items = items, schema.get("additionalItems", True)
        least, most = _count(schema, "minItems") or 0, _count(schema, "maxItems")
        if items is False:
            most = min(len(prefix), most if most is not None else len(prefix))
        if most is not None and least > most:
            raise Unsatisfiable(at, "'minItems' is larger than the number of items allowed")
        ws = self._grammar.primitive("ws")
        if most == 0:
            return '"[" "]"'
        heads = [self._value(item, f"{at}/prefixItems/{i}") for i, item in enumerate(prefix)]
        tail = None if items is False else self._value(items, f"{at}/items")
        sequence = self._items(heads[:most], tail, least, most)
        optional = "" if least else "?"
        return self._grammar.add("array", f'"[" {ws} ({sequence} {ws}){optional} "]"')

    def _items(self, heads: list[str], tail: str | None, least: int, most: int | None) -> str:
        """One item or more: the `heads` in their order, then as many of `tail` as may be."""
        ws = self._grammar.primitive("ws")
        if not heads and tail is not None:
            heads = [tail]
        expression = ""
        if tail is not None and (most is None or most > len(heads)):
            another = self._grammar.add("item", f'"," {ws} {tail}')
            left = None if most is None else most - len(heads)
            expression = self._grammar.repeat(another, max(0, least - len(heads)), left)
        for index in range(len(heads) - 1, 0, -1):
            expression = f'"," {ws} {heads[index]} {expression}'
            if index >= least:
                expression = f"({expression})?"
        return f"{heads[0]} {expression}"

    def _string(self, schema: Mapping[str, Any], at: str) -> str:
        least, most = _count(schema, "minLength") or 0, _count(schema, "maxLength")
        pattern, format_ = schema.get("pattern"), schema.get("format")
        if most is not None and least > most:
            raise Unsatisfiable(at, "'minLength' is larger than 'maxLength'")
        wanted = [keyword for keyword in ("pattern", "format") if keyword in schema]
        if (len(wanted) > 1 or (wanted and (least or most is not None))) and not self._lenient:
            raise SchemaError(
                at, f"'{wanted[0]}' cannot be enforced together with another limit on the string"
            )
        if pattern is not None:
            return self._pattern(pattern, at)
        if format_ in _FORMATS:
            return self._pattern(_FORMATS[format_], at)
        if format_ is not None and not self._lenient:
            known = ", ".join(sorted(_FORMATS))
            raise SchemaError(at, f"the format {format_!r} cannot be enforced; these can: {known}")
        if not least and most is None:
            return self._grammar.primitive("string")
        repeated = self._grammar.repeat(self._grammar.primitive("char"), least, most)
        return self._grammar.add("string", f'"\\"" {repeated} "\\""')

    def _pattern(self, pattern: str, at: str) -> str:
        try:
            if pattern not in self._patterns:
                self._patterns[pattern] = pattern_rule(self._grammar, pattern)
            return self._patterns[pattern]
        except UnsupportedPattern as error:
            if self._lenient:
                return self._grammar.primitive("string")
            raise SchemaError(at, f"'pattern' cannot be enforced: {error}") from error

    def _number(self, schema: Mapping[str, Any], kind: str, at: str) -> str:
        low, above_low = _bound(schema, "minimum", "exclusiveMinimum", max)
        high, below_high = _bound(schema, "maximum", "exclusiveMaximum", min)
        if low is None and high is None:
            return self._grammar.primitive(kind)
        try:
            if kind == "integer":
                low, high = _integer_bounds(low, high, above_low, below_high)
                return self._grammar.add("integer", integers(low, high))
            if low != _whole(low) or high != _whole(high):
                raise SchemaError(at, "bounds of a 'number' can only be enforced if they are whole")
            bounded = decimals(_whole(low), _whole(high), above_low=above_low, below_high=below_high)
            return self._grammar.add("number", bounded)
        except SchemaError:
            if self._lenient:
                return self._grammar.primitive(kind)
            raise
        except ValueError as error:
            raise Unsatisfiable(at, str(error)) from error


def _type_names(schema: Mapping[str, Any]) -> list[str] | None:
    given = schema.get("type")
    return [given] if isinstance(given, str) else given


def _types_of(schema: Mapping[str, Any]) -> list[str] | None:
    """The types to write: those given, or the one that the other keywords are about."""
    given = _type_names(schema)
    if given is not None:
        # Every integer is a number, so it needs no alternative of its own.
        return [kind for kind in given if kind != "integer" or "number" not in given]
    for kind in ("object", "array", "string", "number"):
        if any(keyword in schema for keyword in _KEYWORDS_OF[kind]):
            return [kind]
    return None


def _multiple_of_one(schema: Mapping[str, Any], keyword: str) -> bool:
    return keyword == "multipleOf" and schema["multipleOf"] == 1 and schema.get("type") == "integer"


def _with_exclusive_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Draft 4 wrote a boolean beside the bound to say that the bound is itself excluded."""
    for inclusive, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
    return schema


def _count(schema: Mapping[str, Any], keyword: str) -> int | None:
    return int(schema[keyword]) if keyword in schema else None


def _bound(
    schema: Mapping[str, Any], inclusive: str, exclusive: str, tighter: Callable[..., Any]
) -> tuple[Any, bool]:
    """The bound that counts, and whether it is itself excluded."""
    bounds = [schema[keyword] for keyword in (inclusive, exclusive) if keyword in schema]
    bound = tighter(bounds) if bounds else None
    return bound, exclusive in schema and schema[exclusive] == bound


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _integer_bounds(low: Any, high: Any, above_low: bool, below_high: bool) -> tuple[int | None, int | None]:
    """Bounds on a whole number, themselves included and whole."""
    if low is not None:
        low = int(low) + 1 if above_low and low == int(low) else -int(-low // 1)
    if high is not None:
        high = int(high) - 1 if below_high and high == int(high) else int(high // 1)
    return low, high
