"""The messages of a chat, as requests bring them and as the chat template takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.conversation import answered, call, only_waiting, result, said
from gateway.errors import unsupported
from gateway.json_body import PlainOr, StrictBody
from gateway.openai.chat.tools import FUNCTIONS_ONLY, CustomOr, CustomTool
from gateway.openai.parts import Content, MaybeEmpty, text_of


class SystemMessage(StrictBody):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(StrictBody):
    role: Literal["user"]
    content: Content
    name: str | None = None


class FunctionCall(StrictBody):
    name: str
    arguments: PlainOr[str, dict[str, Any]]


class ToolCall(StrictBody):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(StrictBody):
    role: Literal["assistant"]
    content: MaybeEmpty | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[CustomOr[ToolCall]] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None


class ToolMessage(StrictBody):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None


class FunctionMessage(StrictBody):
    role: Literal["function"]
    content: str | None
    name: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The chat template's own form: a role that templates know, and content as one text.

    Raises a 400 for what is not text, and for results of which it is not clear what they answer.
    """
    translated: list[dict[str, Any]] = []
    unanswered: set[str] = set()
    for i, message in enumerate(messages):
        plain = _message(message, f"messages[{i}]")
        if plain["role"] == "assistant":
            unanswered = {call["id"] for call in plain.get("tool_calls", ())}
        elif plain["role"] == "tool":
            plain["tool_call_id"] = plain["tool_call_id"] or only_waiting(
                unanswered, f"messages[{i}].tool_call_id"
            )
            unanswered.discard(plain["tool_call_id"])
        translated.append(plain)
    return translated


def _message(message: Message, where: str) -> dict[str, Any]:
    content = text_of(message.content, f"{where}.content")
    match message:
        case AssistantMessage():
            return _assistant(message, content, where)
        case ToolMessage():
            return result(message.tool_call_id, content)
        case FunctionMessage():
            return result(message.name, content, message.name)
        case SystemMessage():
            return said("system", content, message.name)
        case _:
            return said("user", content, message.name)


def _assistant(message: AssistantMessage, content: str, where: str) -> dict[str, Any]:
    calls = []
    for i, made in enumerate(message.tool_calls or []):
        if isinstance(made, CustomTool):
            raise unsupported(f"{where}.tool_calls[{i}]", FUNCTIONS_ONLY)
        calls.append(call(made.id, made.function.name, made.function.arguments))
    if function := message.function_call:
        calls.append(call(function.name, function.name, function.arguments))
    return answered(
        content or message.refusal or "",
        reasoning=message.reasoning_content or "",
        calls=calls,
        name=message.name,
    )
