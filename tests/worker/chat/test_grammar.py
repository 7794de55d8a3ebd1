"""JSON Schema by grammar, as llama.cpp reads it: valid in, invalid out, the unenforceable refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from tests.worker.chat.grammar_checker import GrammarChecker
from worker.chat.grammar.gbnf import Grammar
from worker.chat.grammar.json_schema import SchemaGrammar
from worker.chat.grammar.schema_algebra import SchemaError

Schema = dict[str, Any]


def compiled(schema: Schema, *, lenient: bool = False) -> str:
    grammar = Grammar()
    return grammar.text(SchemaGrammar(grammar, schema, lenient=lenient).root())


def properties(**schemas: Any) -> Schema:
    return {"type": "object", "properties": schemas, "required": list(schemas), "additionalProperties": False}


PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "description": "full name"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "minItems": 1, "maxItems": 3},
        "note": {"type": ["string", "null"], "maxLength": 5},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "Node": properties(
            value={"type": "integer"}, next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}
        )
    },
    "$ref": "#/$defs/Node",
}
SHAPES = {
    "oneOf": [
        properties(kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0, "maximum": 10}),
        properties(kind={"const": "square"}, side={"type": "integer"}),
    ]
}
MERGED = {
    "allOf": [properties(a={"type": "integer"}) | {"additionalProperties": True}, {"$ref": "#/$defs/B"}],
    "$defs": {"B": {"properties": {"b": {"type": "null"}}, "required": ["b"]}},
}

# Schemas, values that they allow and the grammar lets through, and texts that it must not.
CASES: dict[str, tuple[Schema, list[Any], list[str]]] = {
    "object": (
        PERSON,
        [{"name": "Ada", "tags": ["a"]}, {"name": 'Q"\\\n', "age": 150, "tags": [3, None], "note": None}],
        ['{"tags": ["a"]}', '{"name": "Ada", "tags": []}', '{"name": 1, "tags": ["a"]}', "[]", '{"name": "A'],
    ),
    "object, bounds": (
        PERSON,
        [{"name": "", "age": 0, "tags": ["b", "b", "b"], "note": "12345"}],
        [
            '{"name": "", "age": 151, "tags": ["a"]}',
            '{"name": "", "age": -1, "tags": ["a"]}',
            '{"name": "", "tags": ["a", "a", "a", "a"]}',
            '{"name": "", "tags": ["a"], "note": "123456"}',
            '{"name": "", "tags": ["a"], "more": 1}',
        ],
    ),
    "all optional": (
        {
            "type": "object",
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
        },
        [{}, {"a": None}, {"c": None}, {"a": None, "c": None}, {"a": None, "b": None, "c": None}],
        ['{"a": null,}', '{,"a": null}', '{"a": null "b": null}'],
    ),
    "some optional": (
        {
            "type": "object",
            "properties": {name: {"type": "null"} for name in "abcd"},
            "required": ["b", "d"],
            "additionalProperties": False,
        },
        [{"b": None, "d": None}, {"a": None, "b": None, "d": None}, dict.fromkeys("abcd")],
        ['{"b": null}', '{"a": null, "d": null}', '{"b": null, "c": null}', "{}", '{"d": null}'],
    ),
    "recursion": (
        TREE,
        [{"value": 1, "next": None}, {"value": 1, "next": {"value": -2, "next": None}}],
        ['{"value": 1}', '{"value": 1, "next": {}}'],
    ),
    "union": (
        SHAPES,
        [{"kind": "circle", "radius": 0.5}, {"kind": "circle", "radius": 10}, {"kind": "square", "side": 3}],
        [
            '{"kind": "circle", "radius": 0}',
            '{"kind": "circle", "radius": 10.5}',
            '{"kind": "square", "radius": 1}',
        ],
    ),
    "all of": (MERGED, [{"a": 1, "b": None}], ['{"a": 1}', '{"b": null}']),
    "any object": ({"type": "object"}, [{}, {"a": [1, {"b": 2.5e3}]}], ["[]", "1", '{"a"}']),
    "anything": ({}, [{}, [], "a", 1, -0.5, True, None], ["", "nil"]),
    "map": ({"type": "object", "additionalProperties": {"type": "boolean"}}, [{"x": True}], ['{"x": 1}']),
    "empty object": ({"type": "object", "additionalProperties": False}, [{}], ['{"x": 1}']),
    "tuple": (
        {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "items": False,
            "minItems": 1,
        },
        [["a"], ["a", 1]],
        ["[]", '["a", 1, 2]', "[1]"],
    ),
    "type and enum": ({"type": ["string", "null"], "enum": ["a", None, 1]}, ["a", None], ["1", '"b"']),
    "merged enum": (
        {"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]},
        ["b"],
        ['"a"', '"c"'],
    ),
    "one of each": (
        {"allOf": [{"anyOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"enum": [None, 1]}]}]},
        [None],
        ['"a"', "1"],
    ),
    "labelled constants": (
        {"oneOf": [{"const": number, "title": f"Number {number}"} for number in range(300)]},
        [0, 299],
        ["300"],
    ),
    "enum, 1 and 1.0": ({"allOf": [{"enum": [1, 2]}, {"enum": [1.0, True]}]}, [1], ["2", "true"]),
    "references, merged and recursive": (
        {
            "$defs": {
                "A": {"properties": {"x": {"$ref": "#/$defs/A"}}, "type": "object"},
                "B": {"properties": {"x": {"$ref": "#/$defs/B"}}, "type": "object"},
            },
            "allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        },
        [{}, {"x": {"x": {}}}],
        ['{"x": 1}'],
    ),
    "integers": (
        {"type": "integer", "exclusiveMinimum": -13, "maximum": 105},
        [-12, -9, 0, 7, 99, 100, 105],
        ["-13", "106", "1000", "1.5", "05"],
    ),
    "large integers": ({"type": "integer", "minimum": 998}, [998, 999, 1000, 123456], ["997", "-999", "0"]),
    "numbers": (
        {"type": "number", "minimum": -1, "maximum": 1},
        [-1, -0.5, 0, 0.25, 1],
        ["1.5", "-1.01", "2"],
    ),
    "lengths": (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ["ab", "é🗼", "\\\\\\"],
        ['"a"', '"abcd"'],
    ),
    "a long limit": ({"type": "string", "maxLength": 2500}, ["", "a" * 2500], ['"' + "a" * 2501 + '"']),
    "pattern": (
        {"type": "string", "pattern": r"^[A-Z]{2}-\d{1,3}(\.[a-c]+)?$"},
        ["AB-1", "ZZ-123.abc"],
        ['"AB-"', '"AB-1234"', '"xAB-1"', '"AB-1.d"'],
    ),
    "pattern, unanchored": ({"type": "string", "pattern": "b|c$"}, ["abc", "b", "xxc"], ['"a"', '"cx"']),
    "pattern, quotes": ({"type": "string", "pattern": '^[^a]"\\\\$'}, ['b"\\', '""\\'], ['"a\\"\\\\"']),
    "date-time": (
        {"type": "string", "format": "date-time"},
        ["2024-02-28T23:59:59Z", "2024-12-31T00:00:00.5+01:00"],
        ['"2024-13-01T00:00:00Z"', '"2024-02-30T00:00:00Z"', '"2024-01-01"'],
    ),
    "uuid": (
        {"type": "string", "format": "uuid"},
        ["0b9c1c4e-6f0e-4b5a-9c0a-0123456789ab"],
        ['"0b9c1c4e"', '"0b9c1c4e-6f0e-4b5a-9c0a-0123456789ag"'],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_valid_values_pass_and_invalid_ones_do_not(name: str) -> None:
    schema, valid, invalid = CASES[name]
    checker = GrammarChecker(compiled(schema))
    for value in valid:
        jsonschema.validate(value, schema)
        assert checker.accepts(json.dumps(value, ensure_ascii=False)), value
    for text in invalid:
        assert not checker.accepts(text), text


# At random, it takes for ever to meet an unanchored pattern.
@pytest.mark.parametrize("name", [name for name in CASES if name != "pattern, unanchored"])
def test_whatever_the_grammar_writes_is_valid(name: str) -> None:
    schema = CASES[name][0]
    checker = GrammarChecker(compiled(schema))
    for seed in range(8):
        value = json.loads(checker.random_sentence(seed))
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())


def test_exclusive_bounds_may_be_written_as_draft_4_did() -> None:
    parts: list[Schema] = [{"maximum": 9, "exclusiveMaximum": True}, {"exclusiveMaximum": 5}]
    checker = GrammarChecker(compiled({"type": "integer", "allOf": parts}))
    assert checker.accepts("4")
    assert not checker.accepts("5")


def test_properties_come_in_the_schemas_order() -> None:
    checker = GrammarChecker(compiled(properties(b={"type": "null"}, a={"type": "null"})))
    assert checker.accepts('{"b": null, "a": null}')
    assert not checker.accepts('{"a": null, "b": null}')


def test_white_space_is_bounded() -> None:
    checker = GrammarChecker(compiled({"type": "object"}))
    assert checker.accepts('{\n  "a": [\n    1\n  ]\n}')
    assert not checker.accepts('{\n\n\n"a": 1}')
    assert not checker.accepts('{"a": 1}\n')


UNENFORCEABLE: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {"type": "null"}}, "at its root, 'not'"),
    "if": (properties(a={"if": {}, "then": {}}), "at '/properties/a', 'if'"),
    "uniqueItems": (
        {"type": "array", "items": {"uniqueItems": True, "type": "array"}},
        "at '/items', 'uniqueItems'",
    ),
    "patternProperties": ({"patternProperties": {"^a": {}}}, "'patternProperties'"),
    "multipleOf": ({"type": "integer", "multipleOf": 3}, "'multipleOf'"),
    "contains": ({"type": "array", "contains": {}}, "'contains'"),
    "lookahead": ({"type": "string", "pattern": "^(?=a)"}, "'pattern' cannot be enforced: it uses assert"),
    "back reference": ({"type": "string", "pattern": r"^(a)\1$"}, "groupref"),
    "bad pattern": ({"type": "string", "pattern": "("}, "not a regular expression"),
    "format": ({"type": "string", "format": "iri"}, "the format 'iri'"),
    "remote reference": ({"$ref": "https://example.com/schema"}, "can only point into the schema itself"),
    "dangling reference": ({"$ref": "#/$defs/X"}, "'#/$defs/X', which is not there"),
    "circular reference": (
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"$ref": "#/$defs/A"}}},
        "itself",
    ),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "'oneOf'"),
    "fractional bounds": ({"type": "number", "minimum": 0.5}, "whole"),
    "empty range": ({"type": "integer", "minimum": 3, "maximum": 2}, "no number"),
    "pattern and length": ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "together"),
    "unknown type": ({"type": "money"}, "'type' should be among"),
    "false": (properties(a=False), "nothing is allowed"),
    "contradiction": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "two different values of 'type'"),
    "closed all of": (
        {"allOf": [properties(a={}), properties(b={})]},
        "forbids '",
    ),
    "required but forbidden": (
        {"additionalProperties": False, "required": ["a"]},
        "required but not allowed",
    ),
    "not an object": ({"properties": {"a": 3}}, "at '/properties/a', a schema should be an object"),
    "pattern, too ambiguous": ({"pattern": "^((a?){1000}){1000}$"}, "too large or too ambiguous"),
    "reference to itself": ({"$ref": "#"}, "at its root, its '$ref' leads back to itself"),
    "references in a circle": (
        properties(x={"$ref": "#/$defs/a"})
        | {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        "at '/$defs/a', its '$ref' leads back to itself",
    ),
    "two that are the same and recursive": (
        {
            "$defs": {"a": properties(x={"$ref": "#/$defs/a"})},
            "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}],
        },
        "'oneOf' cannot be enforced where branches overlap",
    ),
    "true and 1": ({"const": 1, "enum": [True]}, "no value of 'enum' and 'const'"),
    "false and 0": ({"allOf": [{"enum": [False]}, {"enum": [0]}]}, "no value of 'enum' and 'const'"),
    "true and 1, nested": (
        {"allOf": [properties(a={"const": 1}), properties(a={"const": True})]},
        "two different values of 'const'",
    ),
}


# Values that JSON Schema does not allow a keyword to have, with the place that is to blame.
MALFORMED: list[tuple[Schema, str]] = [
    ({"required": [5]}, "at its root, 'required' should be a list of strings"),
    ({"required": [[]]}, "'required'"),
    ({"required": [{}]}, "'required'"),
    ({"type": "array", "uniqueItems": True, "maxItems": "a"}, "'maxItems' should be a whole number"),
    ({"type": "array", "uniqueItems": True, "maxItems": None}, "'maxItems'"),
    ({"const": 1, "enum": 5}, "'enum' should be a list"),
    ({"enum": []}, "'enum' should be a list that is not empty"),
    ({"format": []}, "'format' should be a string"),
    ({"format": {}}, "'format'"),
    ({"pattern": 5}, "'pattern' should be a string"),
    ({"minimum": float("inf")}, "'minimum' should be a finite number"),
    ({"exclusiveMaximum": "3"}, "'exclusiveMaximum'"),
    ({"maxLength": -1}, "'maxLength'"),
    ({"const": float("inf")}, "'const' should be JSON"),
    ({"enum": [{"a": [float("nan")]}]}, "'enum' should be a list that is not empty, of JSON"),
    ({"allOf": [{"required": 5}, {"required": ["a"]}]}, "at '/allOf/0', 'required'"),
    ({"allOf": [{"properties": {}}, {"properties": 5}]}, "at '/allOf/1', 'properties' should be an object"),
    ({"allOf": [{"minimum": 1}, {"minimum": "a"}]}, "at '/allOf/1', 'minimum'"),
    ({"allOf": [{"enum": [1]}, {"enum": 5}]}, "at '/allOf/1', 'enum'"),
    ({"allOf": [properties(a={}), {"properties": [1]}]}, "at '/allOf/1', 'properties'"),
    ({"allOf": {}}, "'allOf' should be a list of schemas"),
    ({"oneOf": [{"enum": 5}, {"enum": [1]}]}, "at '/oneOf/0', 'enum'"),
    ({"oneOf": [{"required": 5}, {"required": 5}]}, "'required'"),
    ({"oneOf": [{"required": [[]]}, {}]}, "at '/oneOf/0', 'required'"),
    ({"oneOf": [{"type": [[]]}, {"type": "null"}]}, "at '/oneOf/0', 'type' should be among"),
    ({"oneOf": [{"properties": ["a"]}, {}]}, "at '/oneOf/0', 'properties'"),
    ({"anyOf": [5]}, "at '/anyOf/0', a schema should be an object"),
    ({"items": 5}, "at '/items', a schema should be an object"),
    ({"items": [{"type": 5}]}, "at '/items/0', 'type'"),
    ({"prefixItems": {}}, "'prefixItems' should be a list"),
    ({"additionalProperties": []}, "at '/additionalProperties', a schema"),
    (properties(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": {"type": "x"}}}, "at '/$defs/A', 'type'"),
    ({"$ref": "#/anyOf/" + "9" * 5000, "anyOf": [{}]}, "which is not there"),
    ({"$ref": 5}, "'$ref' can only point"),
    ({"const": ["\ud800"]}, "a surrogate that is not half of a pair"),
    ({"properties": {"\ud800": {}}}, "a surrogate"),
]


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(("schema", "message"), MALFORMED)
def test_a_keyword_of_the_wrong_shape_is_refused_by_name_and_place(
    schema: Schema, message: str, lenient: bool
) -> None:
    with pytest.raises(SchemaError) as refused:
        compiled(schema, lenient=lenient)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", UNENFORCEABLE)
def test_what_cannot_be_enforced_is_refused_by_name_and_place(name: str) -> None:
    schema, message = UNENFORCEABLE[name]
    with pytest.raises(SchemaError) as refused:
        compiled(schema)
    assert message in str(refused.value)


def test_depth_is_limited() -> None:
    schema: Schema = {"type": "null"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaError, match="deeper"):
        compiled(schema)


def nested(depth: int, wrap: Callable[[Any], Schema]) -> Schema:
    schema: Any = {"type": "null"}
    for _ in range(depth):
        schema = wrap(schema)
    return dict(schema)


def test_the_deepest_schemas_that_are_allowed_stay_within_pythons_limit() -> None:
    assert compiled(nested(60, lambda inner: properties(a=inner)))
    assert compiled(nested(30, lambda inner: {"anyOf": [{"allOf": [inner, {"title": "t"}]}, True]}))
    with pytest.raises(SchemaError, match="deeper"):
        compiled({"default": nested(200, lambda inner: {"a": inner})})


def chain(length: int, *beside: Schema) -> Schema:
    """Objects with a property for each of `beside`, and in each of those the next object."""
    definitions: Schema = {f"d{length}": {"type": "object"}}
    for number in range(length):
        parts = [{"$ref": f"#/$defs/d{number + 1}"} | more for more in beside]
        definitions[f"d{number}"] = properties(**{f"p{index}": part for index, part in enumerate(parts)})
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def test_what_occurs_many_times_is_compiled_once() -> None:
    twice = compiled(chain(15, {"type": "object"}, {"type": "object"}))
    assert len(twice) < 2 * len(compiled(chain(15, {"type": "object"})))


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"properties": {f"{name}{n}": {}}} for name in "ab"]} for n in range(20)]},
        {"enum": [f"value {number}" for number in range(40_000)]},
        {"type": "object", "properties": {f"p{number}": {"type": "null"} for number in range(10_000)}},
        {"oneOf": [properties(a={"const": number}) for number in range(1_000)]},
        {"anyOf": [{"type": "string", "pattern": f"^a{{1000}}{number}$"} for number in range(200)]},
    ],
)
def test_a_schema_that_grows_without_end_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match="too large"):
        compiled(schema)


def test_many_large_patterns_are_only_strings_where_that_is_allowed() -> None:
    ambiguous = {f"p{number}": {"pattern": f"^(a?){{{900 + number}}}$"} for number in range(100)}
    with pytest.raises(SchemaError, match="at '/properties/p0', 'pattern' cannot be enforced"):
        compiled({"properties": ambiguous})
    assert compiled({"properties": ambiguous}, lenient=True).count("ws string\n") == 100


@pytest.mark.parametrize(
    "name", ["not", "if", "uniqueItems", "multipleOf", "lookahead", "format", "overlapping oneOf"]
)
def test_leniently_only_the_shape_is_enforced(name: str) -> None:
    checker = GrammarChecker(compiled(UNENFORCEABLE[name][0], lenient=True))
    json.loads(checker.random_sentence(0))


@pytest.mark.parametrize(
    "schema",
    [{"minProperties": 0, "type": "object"}, {"type": "integer", "multipleOf": 1}, {"uniqueItems": False}],
)
def test_keywords_that_say_nothing_are_no_reason_to_refuse(schema: Schema) -> None:
    assert compiled(schema)
