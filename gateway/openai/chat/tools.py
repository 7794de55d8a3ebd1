"""Tools and the choice of them, as chat completions ask for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from gateway.errors import invalid, unsupported
from gateway.json_body import PlainOr, StrictBody
from gateway.tools import MAX_TOOLS, Choice, FunctionDefinition, ToolUse, named, offered

T = TypeVar("T")

FUNCTIONS_ONLY = "these models call functions, not custom tools. Send a tool of type 'function'."


class CustomTool(StrictBody):
    """A tool that takes plain text, its choice or its call: understood, and refused by name."""

    type: Literal["custom"]


def _tool_kind(value: Any) -> str:
    # The tags are no names of fields: a location that mentions them can still be followed.
    return "custom-tool" if isinstance(value, dict) and value.get("type") == "custom" else "function-tool"


# Not told apart by `type` alone, which a function's call may leave out.
CustomOr = Annotated[
    Annotated[T, Tag("function-tool")] | Annotated[CustomTool, Tag("custom-tool")], Discriminator(_tool_kind)
]


class FunctionTool(StrictBody):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(StrictBody):
    name: str


class NamedTool(StrictBody):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(StrictBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(StrictBody):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Annotated[NamedTool | AllowedToolsChoice | CustomTool, Field(discriminator="type")]


class ToolFields(StrictBody):
    tools: Annotated[list[CustomOr[FunctionTool]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: PlainOr[Literal["none", "auto", "required"], ToolChoice] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    function_call: PlainOr[Literal["none", "auto"], FunctionName] | None = None


def tool_use(body: ToolFields) -> ToolUse:
    """Without tools where none may be called. Deprecated functions are tools as well."""
    if body.functions or body.function_call is not None:
        return _deprecated(body)
    definitions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])]
    return offered(definitions, _choice(body.tool_choice), parallel=body.parallel_tool_calls is not False)


def _deprecated(body: ToolFields) -> ToolUse:
    if body.tools or body.tool_choice is not None:
        raise invalid("'functions' and 'function_call' are deprecated and exclude 'tools'.", "functions")
    asked = body.function_call
    choice = named(asked.name) if isinstance(asked, FunctionName) else Choice(asked or "auto")
    return offered(
        body.functions or [], choice, parallel=False, param="functions", choice_param="function_call"
    )


def _choice(choice: Literal["none", "auto", "required"] | ToolChoice | None) -> Choice:
    match choice:
        case AllowedToolsChoice():
            allowed = choice.allowed_tools
            return Choice(allowed.mode, [tool.function.name for tool in allowed.tools])
        case CustomTool():
            raise unsupported("tool_choice", FUNCTIONS_ONLY)
        case NamedTool():
            return named(choice.function.name)
        case _:
            return Choice(choice or "auto")


def _function(tool: FunctionTool | CustomTool, where: str) -> FunctionDefinition:
    if isinstance(tool, CustomTool):
        raise unsupported(where, FUNCTIONS_ONLY)
    return tool.function
