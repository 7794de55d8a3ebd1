"""Messages, tools and formats as requests bring them, checked strictly."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class Strict(BaseModel):
    """No coercion: "0.5" is not a number. Unknown fields are kept, so that they can be reported."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str


class MediaPart(Strict):
    """Images, audio and files: understood, and refused by name where the model takes text only."""

    type: Literal["image_url", "input_audio", "file"]


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]


def _content_kind(value: Any) -> str:
    return "parts" if isinstance(value, list) else "string"


Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Part], Field(min_length=1), Tag("parts")],
    Discriminator(_content_kind),
]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Content
    name: str | None = None


class CustomTool(Strict):
    """A tool that takes plain text, its choice or its call: understood, and refused by name."""

    type: Literal["custom"]


class FunctionCall(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


def _tool_kind(value: Any) -> str:
    # The tags are no names of fields: a location that mentions them can still be followed.
    return "custom-tool" if isinstance(value, dict) and value.get("type") == "custom" else "function-tool"


AnyToolCall = Annotated[
    Annotated[ToolCall, Tag("function-tool")] | Annotated[CustomTool, Tag("custom-tool")],
    Discriminator(_tool_kind),
]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[AnyToolCall] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not (self.tool_calls or self.function_call or self.refusal):
            raise ValueError("an assistant message needs 'content', unless it has 'tool_calls'")
        return self


class ToolMessage(Strict):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


class FunctionMessage(Strict):
    role: Literal["function"]
    content: str | None
    name: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class FunctionDefinition(Strict):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


Tool = Annotated[
    Annotated[FunctionTool, Tag("function-tool")] | Annotated[CustomTool, Tag("custom-tool")],
    Discriminator(_tool_kind),
]


class FunctionName(Strict):
    name: str


def _function_choice_kind(value: Any) -> str:
    return "named" if isinstance(value, dict) else "mode"


FunctionChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("mode")] | Annotated[FunctionName, Tag("named")],
    Discriminator(_function_choice_kind),
]


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(Strict):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceMode = Literal["none", "auto", "required"]


def _choice_kind(value: Any) -> str:
    if not isinstance(value, dict):
        return "mode"
    return {"allowed_tools": "allowed", "custom": "custom"}.get(str(value.get("type")), "named")


ToolChoice = Annotated[
    Annotated[ToolChoiceMode, Tag("mode")]
    | Annotated[NamedTool, Tag("named")]
    | Annotated[AllowedToolsChoice, Tag("allowed")]
    | Annotated[CustomTool, Tag("custom")],
    Discriminator(_choice_kind),
]


class JSONSchemaFormat(Strict):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class PlainFormat(Strict):
    type: Literal["text", "json_object"]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JSONSchemaFormat


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]
