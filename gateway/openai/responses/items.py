"""The items of a conversation, as responses bring and return them, and as the chat template takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Discriminator, Tag

from gateway.conversation import Message, OpenCalls, answered, call, result, said
from gateway.errors import unsupported
from gateway.json_body import PlainOr, StrictBody
from gateway.openai.parts import MaybeEmpty, Part, TextPart, text_of

KNOWN = "message, function_call, function_call_output, reasoning and item_reference"


class MessageItem(StrictBody):
    """Of the client, or what the model answered earlier."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: MaybeEmpty
    id: str | None = None


class FunctionCallItem(StrictBody):
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: PlainOr[str, dict[str, Any]]
    id: str | None = None


class FunctionCallOutputItem(StrictBody):
    type: Literal["function_call_output"]
    output: MaybeEmpty
    call_id: str | None = None
    id: str | None = None


class ReasoningItem(StrictBody):
    """Earlier thinking: its text, or where there is none its summary."""

    type: Literal["reasoning"]
    content: list[TextPart] | None = None
    summary: list[TextPart] | None = None
    id: str | None = None


class ItemReference(StrictBody):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: str


class OtherItem(StrictBody):
    """An item of a tool that runs on OpenAI's servers, or of none that is known."""

    type: str


_KINDS = {
    "message": "message-item",
    "function_call": "call-item",
    "function_call_output": "output-item",
    "reasoning": "reasoning-item",
    "item_reference": "reference-item",
}


def _item_kind(value: Any) -> str:
    # The tags are no names of fields: a location that mentions them can still be followed.
    if not isinstance(value, dict):
        return "message-item"
    kind = value.get("type")
    if kind is None:
        return "reference-item" if "id" in value and "role" not in value else "message-item"
    return _KINDS.get(kind, "other-item") if isinstance(kind, str) else "other-item"


KnownItem = (
    Annotated[MessageItem, Tag("message-item")]
    | Annotated[FunctionCallItem, Tag("call-item")]
    | Annotated[FunctionCallOutputItem, Tag("output-item")]
    | Annotated[ReasoningItem, Tag("reasoning-item")]
    | Annotated[ItemReference, Tag("reference-item")]
)
Item = Annotated[KnownItem | Annotated[OtherItem, Tag("other-item")], Discriminator(_item_kind)]


def qualified(name: str, namespace: str | None) -> str:
    """What a function is called to the model, which knows no namespaces."""
    return f"{namespace}.{name}" if namespace else name


def template_messages(items: Sequence[Item], num_earlier: int = 0) -> list[Message]:
    """The chat template's own form: what the assistant thought, said and called at one time is one message.

    The first `num_earlier` items are of stored responses: errors count from there, as the request does.
    Raises a 400 for what is not text, and for results of calls that were not made.
    """
    messages: list[Message] = []
    calls = OpenCalls()
    for i, item in enumerate(items, start=-num_earlier):
        message = _message(item, f"input[{i}]", calls)
        if messages and _belong_together(messages[-1], message):
            messages[-1] = _joined(messages[-1], message)
        else:
            messages.append(message)
    return messages


def _message(item: Item, where: str, calls: OpenCalls) -> Message:
    match item:
        case ReasoningItem():
            return answered("", reasoning="".join(part.text for part in item.content or item.summary or ()))
        case MessageItem(role="assistant"):
            return answered(text_of(item.content, f"{where}.content"))
        case MessageItem(role=role):
            return said("user" if role == "user" else "system", text_of(item.content, f"{where}.content"))
        case FunctionCallItem():
            calls.made(item.call_id)
            return answered(
                "", calls=[call(item.call_id, qualified(item.name, item.namespace), item.arguments)]
            )
        case FunctionCallOutputItem():
            call_id = calls.answered(item.call_id, f"{where}.call_id")
            return result(call_id, text_of(item.output, f"{where}.output"))
        case _:
            raise unsupported(where, f"this server knows no items of type '{item.type}', but {KNOWN}.")


def kept_items(items: Sequence[Item], response_id: str) -> list[dict[str, Any]]:
    """As OpenAI lists them: with ids, in which that of the response stands, and texts as parts."""
    return [_kept(item, f"{response_id.removeprefix('resp_')}i{i:04d}") for i, item in enumerate(items)]


def _kept(item: Item, number: str) -> dict[str, Any]:
    done = {"status": "completed"}
    match item:
        case MessageItem(role=role):
            content = [_kept_part(text, role) for text in _texts(item.content)]
            return {"type": "message", "id": f"msg_{number}", "role": role, "content": content, **done}
        case FunctionCallItem(arguments=arguments):
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            return {**item.known_fields(), "id": f"fc_{number}", "arguments": text, **done}
        case FunctionCallOutputItem():
            output = "\n".join(_texts(item.output))
            return {**item.known_fields(), "id": f"fco_{number}", "output": output, **done}
        case _:
            return {"summary": [], **item.known_fields(), "id": f"rs_{number}", **done}


def _texts(content: str | Sequence[Part]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [text_of([part], "") for part in content]


def _kept_part(text: str, role: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _belong_together(earlier: Message, later: Message) -> bool:
    """Whether both are of the assistant, and the later one does not begin anew: thinking, text, calls."""
    if not earlier["role"] == later["role"] == "assistant":
        return False
    if "reasoning_content" in later and (earlier["content"] or "tool_calls" in earlier):
        return False
    return not (earlier["content"] and later["content"])


def _joined(earlier: Message, later: Message) -> Message:
    return answered(
        earlier["content"] + later["content"],
        reasoning=earlier.get("reasoning_content", "") + later.get("reasoning_content", ""),
        calls=[*earlier.get("tool_calls", ()), *later.get("tool_calls", ())],
    )
