"""The tools on offer, and whether one may or must be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from gateway.errors import invalid, unsupported
from gateway.json_body import PlainOr, StrictBody

T = TypeVar("T")

FUNCTIONS_ONLY = "these models call functions, not custom tools. Send a tool of type 'function'."

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_./-]{1,64}$")]


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


class FunctionDefinition(StrictBody):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


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
    tools: Annotated[list[CustomOr[FunctionTool]], Field(max_length=128)] | None = None
    tool_choice: PlainOr[Literal["none", "auto", "required"], ToolChoice] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Field(min_length=1, max_length=128)] | None = None
    function_call: PlainOr[Literal["none", "auto"], FunctionName] | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that may be called, as OpenAI's API has them, and whether and how often one has to be."""

    tools: Sequence[Mapping[str, Any]] = ()
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True


def tool_use(body: ToolFields) -> ToolUse:
    """Without tools where none may be called. Deprecated functions are tools as well."""
    definitions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])]
    choice: Any = body.tool_choice
    param, choice_param = "tools", "tool_choice"
    if body.functions or body.function_call is not None:
        if body.tools or choice is not None:
            raise invalid("'functions' and 'function_call' are deprecated and exclude 'tools'.", "functions")
        definitions, choice = body.functions or [], body.function_call
        param, choice_param = "functions", "function_call"
    tools = {
        definition.name: {"type": "function", "function": definition.known_fields()}
        for definition in definitions
    }
    if len(tools) < len(definitions):
        raise invalid(f"Every name in '{param}' may occur only once.", param)
    if choice not in (None, "none", "auto") and not tools:
        raise invalid(f"'{choice_param}' is only allowed when '{param}' are given.", choice_param)
    if not tools or choice == "none":
        return ToolUse()
    parallel = body.parallel_tool_calls is not False and not body.functions
    match choice:
        case None | "auto" | "required":
            return ToolUse([*tools.values()], choice or "auto", parallel)
        case AllowedToolsChoice():
            allowed = choice.allowed_tools
            names = [tool.function.name for tool in allowed.tools]
            return ToolUse(_chosen(tools, names, choice_param), allowed.mode, parallel)
        case CustomTool():
            raise unsupported(choice_param, FUNCTIONS_ONLY)
        case NamedTool():
            return ToolUse(_chosen(tools, [choice.function.name], choice_param), "required", False)
        case _:
            return ToolUse(_chosen(tools, [choice.name], choice_param), "required", False)


def _function(tool: FunctionTool | CustomTool, where: str) -> FunctionDefinition:
    if isinstance(tool, CustomTool):
        raise unsupported(where, FUNCTIONS_ONLY)
    return tool.function


def _chosen(tools: Mapping[str, T], names: Sequence[str], param: str) -> list[T]:
    for name in names:
        if name not in tools:
            raise invalid(
                f"'{param}' names '{name}', which is not among the tools: {', '.join(tools)}.", param
            )
    return [tools[name] for name in dict.fromkeys(names)]
