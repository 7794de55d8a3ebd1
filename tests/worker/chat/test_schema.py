"""JSON Schema by grammar: valid in, invalid out, the unenforceable refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.worker.chat.grammar_checker import GrammarChecker, constraints, vocabulary
from worker.chat.schema.document import SchemaError
from worker.chat.schema.enforceable import enforceable, json_rule

Schema = dict[str, Any]


def compiled(schema: Schema, *, lenient: bool = False) -> str:
    return f"start: {json_rule(enforceable(schema, lenient=lenient))}"


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
    "references": (
        {
            "$id": "https://example.com/tree",
            "definitions": {
                "a/b": {"$anchor": "here", "type": "object", "properties": {"x": {"$ref": "#here"}}}
            },
            "items": {"$ref": "#/definitions/a~1b"},
            "prefixItems": [{"$ref": "https://example.com/tree#/definitions/a~1b"}],
        },
        [[], [{}, {"x": {"x": {}}}]],
        ['[{"x": 1}]', "[1]"],
    ),
    "merged parts": (
        {
            "type": "object",
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "integer"}},
                {"properties": {"b": {}}, "required": ["b"]},
            ],
        },
        [{"b": 1}, {"a": 1, "b": 2, "c": 3}],
        ['{"b": "x"}', '{"a": "x", "b": 1}'],
    ),
    "merged tuples": (
        {"type": "array", "allOf": [{"prefixItems": [{"type": "integer"}]}, {"items": {"type": "number"}}]},
        [[1], [1, 1.5]],
        ["[1.5]", '["a"]'],
    ),
    "nothing unevaluated": (
        {"type": "object", "properties": {"a": {"type": "null"}}, "unevaluatedProperties": False},
        [{}, {"a": None}],
        ['{"x": 1}'],
    ),
    "nothing unevaluated, nothing declared": (
        {"type": "object", "unevaluatedProperties": False},
        [{}],
        ['{"x": 1}'],
    ),
    "tuple of before 2020": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [{"type": "string"}],
            "additionalItems": {"type": "null"},
            "minItems": 1,
        },
        [["a"], ["a", None]],
        ["[]", '["a", 1]', "[null]"],
    ),
    "a type among the branches": (
        {"oneOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "$defs": {"A": {"type": "array", "items": {}}}},
        [None, [1]],
        ["1", "{}"],
    ),
    "required in one branch or another": (
        {
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            "type": "object",
        },
        [{"a": None}, {"b": None}, {"a": None, "b": None}],
        ["{}", '{"a": null, "c": 1}'],
    ),
    "required but not declared": (
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]},
        [{"b": 1}, {"a": None, "b": []}],
        ["{}", '{"a": null}', '{"b": 1, "c": 1}'],
    ),
    "names by pattern": (
        {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"n_a": 1, "n_b": 2}],
        ['{"n_a": "x"}', '{"m": 1}'],
    ),
    "as many as": (
        {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2},
        [{"a": None}, {"a": None, "b": None}],
        ["{}", '{"a": null, "b": null, "c": null}'],
    ),
    "multiples": ({"type": "integer", "multipleOf": 7}, [0, 14, -7, 700], ["1", "-15"]),
    "multiples of a fraction": ({"type": "number", "multipleOf": 0.25}, [0.25, 3], ["0.3"]),
    "fractional bounds": (
        {"type": "number", "minimum": -0.5, "exclusiveMaximum": 2.25},
        [-0.5, 0, 2.21],
        ["-0.6", "2.25", "3"],
    ),
    "a large bound": (
        {"type": "integer", "minimum": 10**16},
        [10**16, 10**17],
        ["9999999999999999", "5"],
    ),
    "pattern and length": (
        {"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 3},
        ["aa", "aaa"],
        ['"a"', '"aaaa"', '"ab"'],
    ),
    "no escape for what needs none": (properties(a={"type": "null"}), [{"a": None}], ['{"\\u0061": null}']),
    "enum beside bounds": ({"enum": [1, 20, "a"], "maximum": 10}, [1, "a"], ["20"]),
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
    "date": (
        {"type": "string", "format": "date"},
        ["2024-02-29", "2000-02-29", "2023-12-31"],
        ['"2023-02-29"', '"1900-02-29"', '"2024-04-31"'],
    ),
    "time": (
        {"type": "string", "format": "time"},
        ["12:00:59Z", "23:59:59.25+02:00"],
        ['"12:00:60Z"', '"24:00:00Z"'],
    ),
    "email": ({"type": "string", "format": "email"}, ["ada@example.org"], ['"ada"', '"a b@c.de"']),
    "uri": (
        {"type": "string", "format": "uri"},
        ["ftp://a.example:21/x?y#z", "urn:isbn:0451450523"],
        ['"no uri"', '"/path"'],
    ),
    "format and pattern": (
        {"type": "string", "format": "date", "pattern": "^2024"},
        ["2024-01-01"],
        ['"2023-01-01"', '"2024"'],
    ),
    "uuid": (
        {"type": "string", "format": "uuid"},
        ["0b9c1c4e-6f0e-4b5a-9c0a-0123456789ab"],
        ['"0b9c1c4e"', '"0b9c1c4e-6f0e-4b5a-9c0a-0123456789ag"'],
    ),
}


def validator(schema: Schema) -> Any:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    # What `FormatChecker()` takes for "time" is draft 3's.
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


@pytest.mark.parametrize("name", CASES)
def test_valid_values_pass_and_invalid_ones_do_not(name: str) -> None:
    schema, valid, invalid = CASES[name]
    checker = GrammarChecker(compiled(schema))
    for value in valid:
        validator(schema).validate(value)
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
        validator(schema).validate(value)


def test_exclusive_bounds_may_be_written_as_draft_4_did() -> None:
    parts: list[Schema] = [{"maximum": 9, "exclusiveMaximum": True}, {"exclusiveMaximum": 5}]
    checker = GrammarChecker(compiled({"type": "integer", "allOf": parts}))
    assert checker.accepts("4")
    assert not checker.accepts("5")


def test_properties_come_in_the_schemas_order() -> None:
    checker = GrammarChecker(compiled(properties(b={"type": "null"}, a={"type": "null"})))
    assert checker.accepts('{"b": null, "a": null}')
    assert not checker.accepts('{"a": null, "b": null}')


def test_all_is_on_one_line_so_that_most_of_it_is_known_before_it_is_written() -> None:
    checker = GrammarChecker(compiled(properties(a={"type": "null"}, b={"items": {"type": "null"}})))
    assert checker.accepts('{"a": null, "b": [null, null]}')
    for spaced in ('{"a":null, "b": []}', '{\n"a": null, "b": []}', '{"a": null, "b": [ ]}'):
        assert not checker.accepts(spaced)


UNENFORCEABLE: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {"type": "null"}}, "at its root, 'not'"),
    "if": (properties(a={"if": {}, "then": {}}), "at '/properties/a', 'if'"),
    "uniqueItems": (
        {"type": "array", "items": {"uniqueItems": True, "type": "array"}},
        "at '/items', 'uniqueItems'",
    ),
    "names by overlapping patterns": ({"patternProperties": {"^a": {}, "b": {}}}, "not disjoint"),
    "large divisors": ({"type": "integer", "multipleOf": 10_001}, "'multipleOf'"),
    "many divisors": ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "at '/allOf/1', 'multipleOf'"),
    "names that may come twice": (
        properties(a={"type": "object", "minProperties": 2}),
        "at '/properties/a', 'minProperties'",
    ),
    "number of properties that may be left out": (
        {
            "properties": {"a": {}, "b": {}},
            "maxProperties": 1,
            "minProperties": 0,
            "additionalProperties": {},
        },
        "properties",
    ),
    "unevaluatedProperties": (
        {"anyOf": [{}, True], "unevaluatedProperties": False},
        "'unevaluatedProperties'",
    ),
    "unevaluatedItems": ({"type": "array", "unevaluatedItems": False}, "'unevaluatedItems'"),
    "characters that are dropped": ({"enum": ["ok", "hello\0there"]}, "'enum' has a control character"),
    "numbers that are not what they seem": ({"const": 9007199254740993}, "'const' has a number"),
    "bounds that are not what they seem": ({"type": "integer", "maximum": 2**64}, "'maximum' has a number"),
    "a schema inside another": (
        {"$defs": {"a": {"$id": "b", "$ref": "#/$defs/c"}, "c": {}}, "$ref": "#/$defs/a"},
        "below an '$id' of its own",
    ),
    "contains": ({"type": "array", "contains": {}}, "'contains'"),
    "lookahead": ({"type": "string", "pattern": "^(?=a)"}, "'pattern' cannot be enforced: look-around"),
    "back reference": ({"type": "string", "pattern": r"^(a)\1$"}, "backreferences"),
    "bad pattern": ({"type": "string", "pattern": "("}, "'pattern' cannot be enforced: unclosed group"),
    "format": ({"type": "string", "format": "iri"}, "the format 'iri'"),
    "remote reference": ({"$ref": "https://example.com/schema"}, "can only point into the schema itself"),
    "dangling reference": ({"$ref": "#/$defs/X"}, "'#/$defs/X', which is not there"),
    "circular reference": (
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"$ref": "#/$defs/A"}}},
        "itself",
    ),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "'oneOf'"),
    "empty range": (
        properties(a={"type": "integer", "minimum": 3, "maximum": 2}),
        "at '/properties/a', no value",
    ),
    "unknown type": ({"type": "money"}, "'type' should be among"),
    "false": (properties(a=False), "no value is allowed: required property 'a'"),
    "contradiction": (
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        "no value is allowed: incompatible types",
    ),
    "closed all of": (
        {"allOf": [properties(a={}), properties(b={})]},
        "no value is allowed",
    ),
    "required but forbidden": (
        {"additionalProperties": False, "required": ["a"]},
        "required property 'a' is unsatisfiable",
    ),
    "not an object": ({"properties": {"a": 3}}, "at '/properties/a', a schema should be an object"),
    "reference to itself": ({"$ref": "#"}, "at its root, its '$ref' leads back to itself"),
    "references in a circle": (
        properties(x={"$ref": "#/$defs/a"})
        | {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        "at '/$defs/a', its '$ref' leads back to itself",
    ),
    "merged and recursive": (
        {
            "$defs": {
                "A": {"properties": {"x": {"$ref": "#/$defs/A"}}, "type": "object"},
                "B": {"properties": {"x": {"$ref": "#/$defs/B"}}, "type": "object"},
            },
            "allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        },
        "intersection",
    ),
    "overlapping though not as closed objects": (
        {
            "oneOf": [
                properties(a={}) | {"additionalProperties": True},
                {"properties": {"b": {}}, "type": "object"},
            ]
        },
        "'oneOf' cannot be enforced where branches overlap",
    ),
    "overlapping though formats are about strings only": (
        {"type": "array", "oneOf": [{"format": "ipv4"}, {"items": {}}]},
        "'oneOf' cannot be enforced where branches overlap",
    ),
    "two that are the same and recursive": (
        {
            "$defs": {"a": properties(x={"$ref": "#/$defs/a"})},
            "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}],
        },
        "'oneOf' cannot be enforced where branches overlap",
    ),
    "true and 1": ({"const": 1, "enum": [True]}, "no value is allowed"),
    "false and 0": ({"allOf": [{"enum": [False]}, {"enum": [0]}]}, "no value is allowed"),
    "true and 1, nested": (
        {"allOf": [properties(a={"const": 1}), properties(a={"const": True})]},
        "no value is allowed",
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
    ({"minimum": "3"}, "'minimum' should be a finite number"),
    ({"minimum": float("inf")}, "one of its numbers is not finite"),
    ({"multipleOf": 0}, "'multipleOf' should be a number above 0"),
    ({"minProperties": "a"}, "'minProperties' should be a whole number"),
    ({"exclusiveMaximum": "3"}, "'exclusiveMaximum'"),
    ({"maxLength": -1}, "'maxLength'"),
    ({"enum": [{"a": [float("nan")]}]}, "one of its numbers is not finite"),
    ({"const": {1, 2}}, "it is not JSON"),
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
    with pytest.raises(SchemaError, match="nest deeper than 100"):
        compiled(schema)


def nested(depth: int, wrap: Callable[[Any], Schema]) -> Schema:
    schema: Any = {"type": "null"}
    for _ in range(depth):
        schema = wrap(schema)
    return dict(schema)


def test_the_deepest_schemas_that_are_allowed_are_compiled() -> None:
    assert compiled(nested(49, lambda inner: properties(a=inner)))
    assert compiled(nested(24, lambda inner: {"anyOf": [{"allOf": [inner, {"title": "t"}]}, True]}))
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
    twice = compiled(chain(40, {}, {"title": "the same"}))
    assert len(twice) < 2 * len(compiled(chain(40, {})))


def test_references_are_followed_to_a_depth_that_does_not_end_the_process() -> None:
    assert compiled(chain(45, {}))
    with pytest.raises(SchemaError, match="nests deeper than 100 levels"):
        compiled(chain(1000, {}))


# Each would take minutes, or gigabytes.
@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"value {number}" for number in range(40_000)]},
        {"type": "object", "properties": {f"p{number}": {"type": "null"} for number in range(10_000)}},
        {"patternProperties": {f"^p{number}_": {} for number in range(100)}},
        {"allOf": [{"anyOf": [{"properties": {f"{name}{n}": {}}} for name in "ab"]} for n in range(20)]},
        chain(20, {"type": "object"}, {"type": "object"}),
        {
            "$defs": {
                f"{side}{n}": properties(
                    l={"$ref": f"#/$defs/{side}{n + 1}"}, r={"$ref": f"#/$defs/{side}{n + 1}"}
                )
                if n < 20
                else {"type": "object"}
                for side in "ab"
                for n in range(21)
            },
            "allOf": [{"$ref": "#/$defs/a0"}, {"$ref": "#/$defs/b0"}],
        },
        {"type": "integer", "multipleOf": 20_000_003},
    ],
    ids=["enum", "properties", "patterns", "unions", "copies", "merged trees", "divisor"],
)
def test_a_schema_that_grows_without_end_is_refused(schema: Schema) -> None:
    started = time.thread_time()
    with pytest.raises(SchemaError, match=r"too large|too many|'multipleOf'"):
        compiled(schema)
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    "name",
    [
        *("not", "if", "uniqueItems", "lookahead", "format", "overlapping oneOf", "large divisors"),
        *("names that may come twice", "number of properties that may be left out", "merged and recursive"),
    ],
)
def test_leniently_only_the_shape_is_enforced(name: str) -> None:
    checker = GrammarChecker(compiled(UNENFORCEABLE[name][0], lenient=True))
    json.loads(checker.random_sentence(0))


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 0, "type": "object"},
        {"uniqueItems": False},
        {"type": "array", "items": {}, "uniqueItems": True, "maxItems": 1},
        {"dependentRequired": {}},
        {"unevaluatedProperties": True},
        {"then": {"type": "null"}},
        {
            "x-guidance": {"nonsense": 1},
            "$schema": "http://json-schema.org/draft-07/schema#",
            "nullable": True,
        },
    ],
)
def test_keywords_that_say_nothing_are_no_reason_to_refuse(schema: Schema) -> None:
    assert compiled(schema)


def test_a_part_of_a_document_has_all_of_its_definitions() -> None:
    document = {"properties": {"a": {"$ref": "#/$defs/A"}, "b": {}}, "$defs": {"A": {"type": "null"}}}
    checker = GrammarChecker(f"start: {json_rule(enforceable(document, at='/properties/a'))}")
    assert checker.accepts("null")
    assert not checker.accepts("{}")


@pytest.mark.parametrize(
    ("schema", "begun", "goes_on"),
    [
        ({"type": "number"}, "1." + "0" * 19, True),
        ({"type": "number"}, "1." + "0" * 20, False),
        ({"type": "integer"}, "1" * 20, False),
        ({"type": "array", "items": {"type": "integer"}}, "[12, " + "1" * 20, False),
        ({"type": "string"}, '"' + "1" * 20, True),
        ({"type": "string", "pattern": "^[0-9]{30}$"}, '"' + "1" * 20, True),
        ({"const": 1e-25}, "0." + "0" * 22, True),
    ],
)
def test_numbers_do_not_go_on_for_ever(schema: Schema, begun: str, goes_on: bool) -> None:
    constraint = constraints().compile(compiled(schema))
    for token in vocabulary().tokenize(begun.encode(), add_bos=False):
        assert constraint.allows(token)
        constraint.accept(token)
    (zero,) = vocabulary().tokenize(b"0", add_bos=False)
    row = np.zeros(vocabulary().n_vocab(), np.float32)
    constraint.mask(row)
    assert constraint.allows(zero) == np.isfinite(row[zero]) == goes_on
    assert np.isfinite(row).any()


def test_control_tokens_are_no_text() -> None:
    (token,) = vocabulary().tokenize(b"<|im_start|>", add_bos=False, special=True)
    string = constraints().compile(compiled({"type": "string", "minLength": 12}))
    for text in (b'"', b"a"):
        row = np.zeros(vocabulary().n_vocab(), np.float32)
        string.mask(row)
        assert not np.isfinite(row[token])
        assert not string.allows(token)
        string.accept(vocabulary().tokenize(text, add_bos=False)[0])
    constant = constraints().compile(compiled({"const": "<|im_start|>abc"})).forced()
    assert token not in constant
    assert vocabulary().detokenize(constant) == b'"<|im_start|>abc"'
