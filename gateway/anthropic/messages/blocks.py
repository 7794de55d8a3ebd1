"""The messages of a conversation as blocks, as requests bring them and as the chat template takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from gateway.conversation import Message, OpenCalls, answered, call, result, said
from gateway.errors import invalid, unsupported
from gateway.json_body import PlainOr, StrictBody

KNOWN = "text, thinking, tool_use and tool_result"


class TextBlock(StrictBody):
    type: Literal["text"]
    text: str


class ThinkingBlock(StrictBody):
    """Earlier thinking. Nothing here signs it, so nothing is checked."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(StrictBody):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OtherBlock(StrictBody):
    """Images, documents, what Anthropic's servers run: refused by name."""

    type: str


def _block_kind(value: Any) -> str:
    # The tags are no names of fields: a location that mentions them can still be followed.
    kinds = {"text", "thinking", "tool_use", "tool_result"}
    kind = value.get("type") if isinstance(value, dict) else None
    return f"{kind}-block" if isinstance(kind, str) and kind in kinds else "other-block"


ResultPart = Annotated[
    Annotated[TextBlock, Tag("text-block")] | Annotated[OtherBlock, Tag("other-block")],
    Discriminator(lambda value: kind if (kind := _block_kind(value)) == "text-block" else "other-block"),
]


class ToolResultBlock(StrictBody):
    type: Literal["tool_result"]
    tool_use_id: str
    content: PlainOr[str, list[ResultPart]] | None = None
    is_error: bool | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("text-block")]
    | Annotated[ThinkingBlock, Tag("thinking-block")]
    | Annotated[ToolUseBlock, Tag("tool_use-block")]
    | Annotated[ToolResultBlock, Tag("tool_result-block")]
    | Annotated[OtherBlock, Tag("other-block")],
    Discriminator(_block_kind),
]
Text = PlainOr[str, list[TextBlock]]


class InputMessage(StrictBody):
    role: Literal["user", "assistant", "system"]
    content: PlainOr[str, list[Block]]


def text_of(text: str | Sequence[TextBlock]) -> str:
    return text if isinstance(text, str) else "\n".join(block.text for block in text)


def template_messages(messages: Sequence[InputMessage]) -> list[Message]:
    """The chat template's own form: results are messages, and what one side says in a row is one message.

    Raises a 400 for what is not text, and for results of calls that were not made.
    """
    translated: list[Message] = []
    calls = OpenCalls()
    for i, message in enumerate(messages):
        for plain in _plain(message, f"messages[{i}]", calls):
            if translated and plain["role"] == translated[-1]["role"] in ("user", "assistant"):
                translated[-1] = _joined(translated[-1], plain)
            else:
                translated.append(plain)
    return translated


def _plain(message: InputMessage, where: str, calls: OpenCalls) -> Iterator[Message]:
    if isinstance(message.content, str):
        yield said(message.role, message.content)
    elif not message.content:
        yield said(message.role, "")
    else:
        for i, block in enumerate(message.content):
            yield _block(block, message.role, f"{where}.content[{i}]", calls)


def _block(
    block: Block, role: Literal["user", "assistant", "system"], where: str, calls: OpenCalls
) -> Message:
    match block, role:
        case TextBlock(), _:
            return said(role, block.text)
        case ThinkingBlock(), "assistant":
            return answered("", reasoning=block.thinking)
        case ToolUseBlock(), "assistant":
            calls.made(block.id)
            return answered("", calls=[call(block.id, block.name, block.input)])
        case ToolResultBlock(), "user":
            return result(calls.answered(block.tool_use_id, f"{where}.tool_use_id"), _result(block, where))
        case OtherBlock(), _:
            raise _unknown(block, where)
        case _:
            raise invalid(f"A message of the role '{role}' has no blocks of type '{block.type}'.", where)


def _result(block: ToolResultBlock, where: str) -> str:
    if block.content is None or isinstance(block.content, str):
        text = block.content or ""
    else:
        text = "\n".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(block.content))
    return f"Error: {text}" if block.is_error else text


def _part(part: ResultPart, where: str) -> str:
    if isinstance(part, OtherBlock):
        raise _unknown(part, where)
    return part.text


def _unknown(block: OtherBlock, where: str) -> Exception:
    if block.type in ("image", "document"):
        return unsupported(where, f"this model takes text only, not '{block.type}'.")
    return unsupported(where, f"this server knows no blocks of type '{block.type}', but {KNOWN}.")


def _joined(earlier: Message, later: Message) -> Message:
    """Of one role, user or assistant."""
    text = "\n".join(filter(None, (earlier["content"], later["content"])))
    if earlier["role"] == "user":
        return said("user", text)
    thoughts = [message.get("reasoning_content") for message in (earlier, later)]
    return answered(
        text,
        reasoning="\n".join(filter(None, thoughts)),
        calls=[*earlier.get("tool_calls", ()), *later.get("tool_calls", ())],
    )
