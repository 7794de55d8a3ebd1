"""What a chat's answer may be held to: tools and formats, read from OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.protocol import InvalidRequest

ToolChoice = str | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON Schema, None for no parameters."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools on offer: only those that may be called, and whether and how often one has to be."""

    tools: tuple[Tool, ...]
    required: bool = False
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the answer has to be: JSON that `schema` allows, one of `choices`, or what matches `regex`."""

    schema: Mapping[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, and what its answer is held to.

    `messages` are the chat template's own: dicts with `role`, `content` (text) and, where they apply, `name`,
    `tool_calls`, `tool_call_id`, `reasoning_content`. `template_kwargs` are variables for the template. If it
    `continues`, the last message is what the assistant has begun to say.
    """

    messages: Sequence[Mapping[str, Any]]
    tool_use: ToolUse | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    continues: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def tool_use(
    tools: Sequence[Mapping[str, Any]] | None, choice: ToolChoice = None, parallel: bool = True
) -> ToolUse | None:
    """From `tools` and `tool_choice` (none, auto, required, a named function); None where none may be called.

    Raises InvalidRequest for a choice that is not among the tools.
    """
    offered = {tool.name: tool for tool in map(_tool, tools or ())}
    if not offered or choice == "none":
        return None
    if isinstance(choice, Mapping):
        name = choice.get("function", {}).get("name")
        if name not in offered:
            message = f"'tool_choice' names '{name}', which is not among the tools: {', '.join(offered)}."
            raise InvalidRequest(message, "tool_choice", "invalid_value")
        return ToolUse((offered[name],), required=True, parallel=False)
    if choice not in (None, "auto", "required"):
        message = f"'tool_choice' is {choice!r}, not none, auto, required or a function."
        raise InvalidRequest(message, "tool_choice", "invalid_value")
    return ToolUse(tuple(offered.values()), choice == "required", parallel)


def response_format(form: Mapping[str, Any] | None) -> ResponseFormat | None:
    """From OpenAI's `response_format`, and from {"type": "regex"} and {"type": "choice"} beside its types."""
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return ResponseFormat(form.get("schema") or {"type": "object"})
        case {"type": "json_schema", "json_schema": Mapping() as wanted}:
            schema = wanted.get("schema")
            return ResponseFormat(
                {"type": "object"} if schema is None else schema,
                wanted.get("name"),
                wanted.get("description"),
            )
        case {"type": "regex", "regex": str(pattern)}:
            return ResponseFormat(regex=pattern)
        case {"type": "choice", "choice": [_, *_] as choices}:
            return ResponseFormat(choices=tuple(map(str, choices)))
    message = "'response_format' has no 'type' that is known: text, json_object, json_schema, regex, choice."
    raise InvalidRequest(message, "response_format", "invalid_value")


def _tool(tool: Mapping[str, Any]) -> Tool:
    try:
        function = tool["function"]
        name = function["name"]
    except (KeyError, TypeError):
        message = "Each of the 'tools' should be {'type': 'function', 'function': {'name': …}}."
        raise InvalidRequest(message, "tools", "invalid_value") from None
    return Tool(name, function.get("description"), function.get("parameters"), bool(function.get("strict")))
