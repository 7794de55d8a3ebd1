"""JSON Schema as GBNF: everything that the grammar lets through is valid, what it cannot hold is refused.

The grammar may be narrower than the schema where that costs nothing: properties come in the schema's
order, and objects that declare properties get no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from worker.grammar.gbnf import Exhausted, Grammar, either, literal
from worker.grammar.numbers import decimals, integers
from worker.grammar.pattern import UnsupportedPattern, pattern_rule
from worker.grammar.schema_algebra import (
    ASSERTIONS,
    SchemaError,
    Unsatisfiable,
    disjoint,
    is_type,
    merge,
    resolve,
)

MAX_DEPTH = 64

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
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
    """Compiles the parts of one schema document into `grammar`.

    `lenient` drops constraints that a grammar cannot hold instead of raising SchemaError.
    """

    def __init__(self, grammar: Grammar, document: Mapping[str, Any], *, lenient: bool = False) -> None:
        self._grammar, self._document, self._lenient = grammar, document, lenient
        self._references: dict[str, str] = {}
        self._patterns: dict[str, str] = {}
        self._depth = 0

    def root(self) -> str:
        try:
            return self.value(self._document, "")
        except Exhausted as error:
            raise SchemaError(
                "", "it is too large to be enforced; leave out or shorten parts of it"
            ) from error

    def value(self, schema: Any, at: str) -> str:
        """An expression for the values that `schema` allows; `at` is its place, for messages and names."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SchemaError(at, f"it nests deeper than {MAX_DEPTH} levels")
        try:
            return self._value(schema, at)
        finally:
            self._depth -= 1

    def _value(self, schema: Any, at: str) -> str:
        if schema is True:
            return self._grammar.primitive("value")
        if not isinstance(schema, Mapping):
            raise SchemaError(
                at, "a schema should be an object" if schema is not False else "nothing is allowed"
            )
        schema = self._assertions(schema, at)
        if "$ref" in schema:
            return self._reference(schema, at)
        if "allOf" in schema:
            return self._value(self._flat(schema, at), at)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._branches(schema, keyword, at)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, at)
        types = _types_of(schema, at)
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
        return kept

    def _reference(self, schema: Mapping[str, Any], at: str) -> str:
        reference = schema["$ref"]
        target = resolve(self._document, reference, at)
        siblings = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        if siblings:
            return self._value(self._merge(siblings, target, at), at)
        if reference not in self._references:
            name = self._grammar.reserve(reference.rpartition("/")[2] or "root")
            self._references[reference] = name
            self._grammar.define(name, self.value(target, reference))
        return self._references[reference]

    def _merge(self, one: Mapping[str, Any], other: Any, at: str) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            if other is True:
                return dict(one)
            raise SchemaError(at, "a schema should be an object")
        return merge(one, self._assertions(other, at), at)

    def _flat(self, schema: Mapping[str, Any], at: str) -> dict[str, Any]:
        """`schema` with its `allOf` parts merged into it."""
        merged = {keyword: value for keyword, value in schema.items() if keyword != "allOf"}
        for part in _list(schema, "allOf", at):
            merged = self._merge(merged, self._inlined(part, at), at)
        return merged

    def _inlined(self, schema: Any, at: str) -> Any:
        """What a `$ref` stands for, so that it can be merged with others."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                return schema
            siblings = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
            schema = self._merge(
                self._assertions(siblings, at), resolve(self._document, schema["$ref"], at), at
            )
        raise SchemaError(at, "its '$ref' refers to itself")

    def _branches(self, schema: Mapping[str, Any], keyword: str, at: str) -> str:
        rest = {name: value for name, value in schema.items() if name != keyword}
        branches = _list(schema, keyword, at)
        if keyword == "oneOf" and not self._lenient:
            self._check_exclusive(branches, at)
        if not rest:
            return either(self.value(branch, f"{at}/{keyword}/{i}") for i, branch in enumerate(branches))
        expressions = []
        for i, branch in enumerate(branches):
            try:
                merged = self._merge(rest, self._inlined(branch, at), at)
                expressions.append(self.value(merged, f"{at}/{keyword}/{i}"))
            except Unsatisfiable:
                continue
        if not expressions:
            raise SchemaError(at, f"no branch of '{keyword}' can be satisfied")
        return either(expressions)

    def _check_exclusive(self, branches: list[Any], at: str) -> None:
        flat = [self._inlined(branch, at) for branch in branches]
        for i, one in enumerate(flat):
            for other in flat[:i]:
                if not disjoint(one, other, lambda schema: self._inlined(schema, at)):
                    raise SchemaError(
                        at,
                        "'oneOf' cannot be enforced where branches overlap; use 'anyOf'",
                    )

    def _constants(self, schema: Mapping[str, Any], at: str) -> str:
        values = [schema["const"]] if "const" in schema else _list(schema, "enum", at)
        if "const" in schema and "enum" in schema:
            values = [value for value in values if value in schema["enum"]]
        others = set(schema) - {"const", "enum", "type"}
        if others and not self._lenient:
            raise SchemaError(at, f"'{min(others)}' cannot be enforced beside 'enum' or 'const'")
        allowed = _type_names(schema, at) or _TYPES
        values = [value for value in values if any(is_type(value, kind) for kind in allowed)]
        if not values:
            raise Unsatisfiable(at, "no value of 'enum' or 'const' has the given type")
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
        required = _list(schema, "required", at, allow_empty=True) if "required" in schema else []
        additional = schema.get("additionalProperties", True)
        declared = schema.get("properties", {})
        if not isinstance(declared, Mapping):
            raise SchemaError(at, "'properties' should be an object")
        properties = dict(declared)
        for name in required:
            if additional is False and name not in properties:
                raise Unsatisfiable(at, f"'{name}' is required but not allowed")
            properties.setdefault(name, additional)
        if properties:
            return self._members(properties, required, at)
        if additional is False:
            return '"{" "}"'
        return self._map(self.value(additional, f"{at}/additionalProperties"), at)

    def _members(self, properties: Mapping[str, Any], required: Iterable[str], at: str) -> str:
        """The properties in their order; each that is not required may be left out."""
        ws = self._grammar.primitive("ws")
        members = []
        for name, schema in properties.items():
            value = self.value(schema, f"{at}/properties/{name}")
            key = literal(json.dumps(name, ensure_ascii=False))
            members.append((self._grammar.add(name, f'{key} ":" {ws} {value}'), name in required))
        # `after`: a member stands before this point; `first`: none does yet.
        after, first = '""', '""'
        for index, (member, is_required) in reversed(list(enumerate(members))):
            if is_required:
                first = f"{member} {after}"
                after = f'"," {ws} {member} {after}'
            else:
                first = f"({member} {after} | {first})"
                after = f'("," {ws} {member})? {after}'
            if index:
                after = self._grammar.add("members", after)
        return self._grammar.add("object", f'"{{" {ws} ({first}) {ws} "}}"')

    def _map(self, value: str, at: str) -> str:
        ws, string = self._grammar.primitive("ws"), self._grammar.primitive("string")
        member = self._grammar.add("member", f'{string} ":" {ws} {value}')
        return self._grammar.add("map", f'"{{" {ws} ({member} ("," {ws} {member})* {ws})? "}}"')

    def _array(self, schema: Mapping[str, Any], at: str) -> str:
        prefix = _list(schema, "prefixItems", at, allow_empty=True) if "prefixItems" in schema else []
        items = schema.get("items", True)
        if isinstance(items, list):  # the tuple form of older drafts
            prefix, items = items, schema.get("additionalItems", True)
        least, most = _count(schema, "minItems", at) or 0, _count(schema, "maxItems", at)
        if items is False:
            most = min(len(prefix), most if most is not None else len(prefix))
        if most is not None and least > most:
            raise Unsatisfiable(at, "'minItems' is larger than the number of items allowed")
        ws = self._grammar.primitive("ws")
        if most == 0:
            return '"[" "]"'
        heads = [self.value(item, f"{at}/prefixItems/{i}") for i, item in enumerate(prefix)]
        tail = None if items is False else self.value(items, f"{at}/items")
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
        least, most = _count(schema, "minLength", at) or 0, _count(schema, "maxLength", at)
        pattern, format_ = schema.get("pattern"), schema.get("format")
        if most is not None and least > most:
            raise Unsatisfiable(at, "'minLength' is larger than 'maxLength'")
        wanted = [keyword for keyword in ("pattern", "format") if schema.get(keyword) is not None]
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

    def _pattern(self, pattern: Any, at: str) -> str:
        if not isinstance(pattern, str):
            raise SchemaError(at, "'pattern' should be a string")
        try:
            if pattern not in self._patterns:
                self._patterns[pattern] = pattern_rule(self._grammar, pattern)
            return self._patterns[pattern]
        except UnsupportedPattern as error:
            if self._lenient:
                return self._grammar.primitive("string")
            raise SchemaError(at, f"'pattern' cannot be enforced: {error}") from error

    def _number(self, schema: Mapping[str, Any], kind: str, at: str) -> str:
        low, above_low = _bound(schema, "minimum", "exclusiveMinimum", max, at)
        high, below_high = _bound(schema, "maximum", "exclusiveMaximum", min, at)
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


def _type_names(schema: Mapping[str, Any], at: str) -> list[str] | None:
    if "type" not in schema:
        return None
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    unknown = [name for name in names if name not in _TYPES]
    if unknown or not names:
        raise SchemaError(at, f"'type' should be among {', '.join(_TYPES)}, not {schema['type']!r}")
    return list(names)


def _types_of(schema: Mapping[str, Any], at: str) -> list[str] | None:
    """The types to write: those given, or the one that the other keywords are about."""
    given = _type_names(schema, at)
    if given is not None:
        # Every integer is a number, so it needs no alternative of its own.
        return [kind for kind in given if kind != "integer" or "number" not in given]
    for kind in ("object", "array", "string", "number"):
        if any(keyword in schema for keyword in _KEYWORDS_OF[kind]):
            return [kind]
    return None


def _multiple_of_one(schema: Mapping[str, Any], keyword: str) -> bool:
    return keyword == "multipleOf" and schema["multipleOf"] == 1 and schema.get("type") == "integer"


def _list(schema: Mapping[str, Any], keyword: str, at: str, *, allow_empty: bool = False) -> list[Any]:
    value = schema[keyword]
    if not isinstance(value, list) or not (value or allow_empty):
        raise SchemaError(at, f"'{keyword}' should be a list{'' if allow_empty else ' that is not empty'}")
    return value


def _count(schema: Mapping[str, Any], keyword: str, at: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if not is_type(value, "integer") or value < 0 or value > 500_000:
        raise SchemaError(at, f"'{keyword}' should be a whole number from 0 to 500000")
    return int(value)


def _bound(
    schema: Mapping[str, Any], inclusive: str, exclusive: str, tighter: Callable[..., Any], at: str
) -> tuple[Any, bool]:
    """The bound that counts, and whether it is itself excluded (draft 4 wrote that as a boolean)."""
    bound, excluded = schema.get(inclusive), schema.get(exclusive)
    if isinstance(excluded, bool):
        bound, excluded = (None, bound) if excluded else (bound, None)
    for value in (bound, excluded):
        if value is not None and not is_type(value, "number"):
            raise SchemaError(at, f"'{inclusive}' and '{exclusive}' should be numbers")
    if bound is None or excluded is None:
        return (bound, False) if excluded is None else (excluded, True)
    return tighter(bound, excluded), tighter(bound, excluded) == excluded


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _integer_bounds(low: Any, high: Any, above_low: bool, below_high: bool) -> tuple[int | None, int | None]:
    """Bounds on a whole number, themselves included and whole."""
    if low is not None:
        low = int(low) + 1 if above_low and low == int(low) else -int(-low // 1)
    if high is not None:
        high = int(high) - 1 if below_high and high == int(high) else int(high // 1)
    return low, high
