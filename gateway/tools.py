"""The tools on offer, and whether one may or must be called, whatever the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.errors import invalid
from gateway.json_body import StrictBody

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_./-]{1,64}$")]
MAX_TOOLS = 128


class FunctionDefinition(StrictBody):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether a tool has to be called, which of `names` only (None: any), and whether once at most."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: Sequence[str] | None = None
    once: bool = False


def named(name: str) -> Choice:
    return Choice("required", [name], once=True)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that may be called, as OpenAI's chats have them, and whether and how often one has to be."""

    tools: Sequence[Mapping[str, Any]] = ()
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True


def offered(
    definitions: Sequence[FunctionDefinition],
    choice: Choice,
    *,
    parallel: bool,
    param: str = "tools",
    choice_param: str = "tool_choice",
) -> ToolUse:
    """Without tools where none may be called. `param` and `choice_param` are the API's words, for errors."""
    tools = {definition.name: _tool(definition) for definition in definitions}
    if len(tools) < len(definitions):
        raise invalid(f"Every name in '{param}' may occur only once.", param)
    if not tools and (choice.mode == "required" or choice.names is not None):
        raise invalid(f"'{choice_param}' is only allowed when '{param}' are given.", choice_param)
    if not tools or choice.mode == "none":
        return ToolUse()
    for name in choice.names or ():
        if name not in tools:
            message = f"'{choice_param}' names '{name}', which is not among the tools: {', '.join(tools)}."
            raise invalid(message, choice_param)
    chosen = list(tools if choice.names is None else dict.fromkeys(choice.names))
    return ToolUse([tools[name] for name in chosen], choice.mode, parallel and not choice.once)


def _tool(definition: FunctionDefinition) -> Mapping[str, Any]:
    fields = set(FunctionDefinition.model_fields)  # an API's own kind of definition has more
    return {"type": "function", "function": definition.model_dump(include=fields, exclude_none=True)}
