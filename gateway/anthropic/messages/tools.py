"""Tools and the choice of them, as messages ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gateway.errors import missing, unsupported
from gateway.json_body import StrictBody
from gateway.tools import Choice, FunctionDefinition, ToolUse, named, offered

CLIENT_TOOLS_ONLY = "Send tools with an 'input_schema', which the client runs."


class Tool(FunctionDefinition):
    """A tool that the client runs. Its parameters are called `input_schema`."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_./-]{1,128}$")]
    parameters: dict[str, Any] = Field(alias="input_schema")
    cache_control: Any = None


class OtherTool(StrictBody):
    """A tool that runs on Anthropic's servers, or of which only their models know the schema."""

    type: str


def _tool_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return "client-tool" if kind in (None, "custom") else "other-tool"


AnyTool = Annotated[
    Annotated[Tool, Tag("client-tool")] | Annotated[OtherTool, Tag("other-tool")], Discriminator(_tool_kind)
]


class ToolChoice(StrictBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def tool_use(tools: Sequence[AnyTool], choice: ToolChoice | None) -> ToolUse:
    """Without tools where none may be called. Raises a 400 for tools that the client does not run."""
    definitions = [_definition(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    parallel = not (choice and choice.disable_parallel_tool_use)
    return offered(definitions, _choice(choice), parallel=parallel)


def _definition(tool: AnyTool, where: str) -> FunctionDefinition:
    if isinstance(tool, OtherTool):
        raise unsupported(where, f"this server has no tool '{tool.type}'. {CLIENT_TOOLS_ONLY}")
    return tool


def _choice(choice: ToolChoice | None) -> Choice:
    if choice is None:
        return Choice()
    match choice.type:
        case "any":
            return Choice("required")
        case "tool":
            if choice.name is None:
                raise missing("tool_choice.name")
            return named(choice.name)
        case mode:
            return Choice(mode)


def ignored_of(tools: Sequence[AnyTool]) -> Iterable[str]:
    """What tools bring along that has no effect, such as examples."""
    extras = {name for tool in tools for name in tool.model_extra or {}}
    return (f"tools.{name}" for name in sorted(extras))
