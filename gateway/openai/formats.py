"""The format of an answer's text, asked for in OpenAI's way, llama-server's or vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.errors import invalid, unsupported
from gateway.json_body import PlainOr, StrictBody, decoded
from gateway.marks import Refused
from gateway.tools import Name

JSONSchema = dict[str, Any]
Choices = Annotated[list[str], Field(min_length=1)]


class JSONSchemaFormat(StrictBody):
    name: Name | None = None
    description: str | None = None
    schema_: JSONSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(StrictBody):
    type: Literal["text"]


class JSONFormat(StrictBody):
    """With `schema`, as llama-server has it."""

    type: Literal["json_object"]
    schema_: JSONSchema | None = Field(default=None, alias="schema")


class SchemaFormat(StrictBody):
    type: Literal["json_schema"]
    json_schema: JSONSchemaFormat


ResponseFormat = Annotated[TextFormat | JSONFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(StrictBody):
    """vLLM's `structured_outputs`: one of its kinds. How vLLM is to go about it makes no difference here."""

    json_: PlainOr[str, JSONSchema] | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    structural_tag: Any = None


NO_GRAMMARS = "send a JSON Schema as 'response_format', or 'guided_regex' or 'guided_choice'."


class GuidedFields(StrictBody):
    """What vLLM and llama-server know beside OpenAI's field; the SDK sends them through `extra_body`."""

    json_schema: JSONSchema | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: PlainOr[str, JSONSchema] | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: Annotated[str | None, Refused(NO_GRAMMARS)] = None


class FormatFields(GuidedFields):
    """At most one of them may be given."""

    response_format: ResponseFormat | None = None


def response_format(body: FormatFields) -> Mapping[str, Any] | None:
    """What the worker knows as `response_format`, whichever way it was asked for; None for text.

    Raises APIError where more than one format is asked for, or one that is not known here.
    """
    form = body.response_format
    return only_format(
        body, "response_format", None if isinstance(form, TextFormat | None) else form.known_fields()
    )


def only_format(body: GuidedFields, name: str, form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """`form`, which the API's own field `name` asks for, or what one of the others does."""
    others = {name: _guided(body, name) for name in GuidedFields.model_fields}
    asked = {name: form for name, form in {name: form, **others}.items() if form is not None}
    if len(asked) > 1:
        names = " and ".join(f"'{name}'" for name in asked)
        raise invalid(f"{names} each ask for a format of the answer. Send only one of them.", [*asked][-1])
    return next(iter(asked.values()), None)


def _guided(body: GuidedFields, name: str) -> Mapping[str, Any] | None:
    value = getattr(body, name)
    match name, value:
        case _, None:
            return None
        case "structured_outputs", _:
            return _structured(value)
        case "guided_regex", _:
            return {"type": "regex", "regex": value}
        case "guided_choice", _:
            return {"type": "choice", "choice": value}
        case _:
            return _json_format(value, name)


def _structured(outputs: StructuredOutputs) -> Mapping[str, Any]:
    given = {name: form for name, form in outputs.known_fields().items() if form is not False}
    if len(given) != 1:
        raise invalid("It needs exactly one of json, json_object, regex and choice.", "structured_outputs")
    [(kind, value)] = given.items()
    param = f"structured_outputs.{kind}"
    match kind:
        case "regex" | "choice":
            return {"type": kind, kind: value}
        case "json":
            return _json_format(value, param)
        case "json_object":
            return {"type": "json_object"}
        case _:
            raise unsupported(param, NO_GRAMMARS)


def _json_format(schema: str | JSONSchema, param: str) -> Mapping[str, Any]:
    """vLLM takes a schema as JSON text too."""
    value = decoded(schema.encode()) if isinstance(schema, str) else schema
    if not isinstance(value, dict):
        raise invalid("It should be a JSON Schema: an object.", param)
    return {"type": "json_schema", "json_schema": {"schema": value}}
