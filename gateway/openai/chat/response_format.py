"""The format that a chat's answer is to have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.json_body import StrictBody
from gateway.openai.chat.tools import Name


class JSONSchemaFormat(StrictBody):
    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class PlainFormat(StrictBody):
    type: Literal["text", "json_object"]


class SchemaFormat(StrictBody):
    type: Literal["json_schema"]
    json_schema: JSONSchemaFormat


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


def response_format(form: ResponseFormat | None) -> dict[str, Any] | None:
    """OpenAI's own shape, without what it does not know; None for text."""
    if form is None or form.type == "text":
        return None
    if isinstance(form, PlainFormat):
        return {"type": form.type}
    return {"type": form.type, "json_schema": form.json_schema.known_fields()}
