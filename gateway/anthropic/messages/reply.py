"""Messages as they go out: the object, and the events that tell how it comes about."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal, NotRequired

import orjson
from pydantic_core import from_json
from typing_extensions import TypedDict

from gateway.answers.blocks import Block, BlockEncoder, server_sent
from gateway.answers.whole import WholeAnswer
from gateway.anthropic.errors import MessageErrorDetail, error_body
from gateway.errors import APIError
from worker.protocol import Accepted, TokenLogprob, Usage

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"
]
# Not empty, because some clients leave out thinking without one when they send it back.
SIGNATURE = "unsigned"


class MessageText(TypedDict):
    type: Literal["text"]
    text: str
    citations: None


class ThinkingOutput(TypedDict):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolCaller(TypedDict):
    type: Literal["direct"]  # the model itself, not code that it wrote


class ToolUseOutput(TypedDict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: ToolCaller


OutputBlock = MessageText | ThinkingOutput | ToolUseOutput


class MessageTokensDetails(TypedDict):
    thinking_tokens: int


class MessageDeltaUsage(TypedDict):
    """`input_tokens` are those of the prompt that had to be computed: without those read from the cache."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: MessageTokensDetails
    server_tool_use: None


class MessageUsage(MessageDeltaUsage):
    cache_creation: None
    inference_geo: None
    service_tier: Literal["standard"]


class MessageObject(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[OutputBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: None
    container: None
    usage: MessageUsage


class MessageEvent(TypedDict):
    """The data of one server-sent event, which has its `type` as a name: `message_start`,
    `content_block_start`, `content_block_delta`, `content_block_stop`, `message_delta`, `message_stop`,
    `ping`, `error`."""

    type: str
    message: NotRequired[MessageObject]
    index: NotRequired[int]
    content_block: NotRequired[OutputBlock]
    delta: NotRequired[dict[str, str | None]]
    usage: NotRequired[MessageDeltaUsage]
    error: NotRequired[MessageErrorDetail]
    request_id: NotRequired[str | None]


def delta_usage(usage: Usage) -> MessageDeltaUsage:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": None,
    }


def message_usage(usage: Usage) -> MessageUsage:
    return {
        **delta_usage(usage),
        "cache_creation": None,
        "inference_geo": None,
        "service_tier": "standard",
    }


class MessageEncoder(BlockEncoder):
    """Every block of the answer is one of the message's. With `hides_thinking`, a thinking block is empty."""

    def __init__(self, model: str, max_tokens: int, *, hides_thinking: bool) -> None:
        super().__init__()
        self._id = f"msg_{secrets.token_hex(12)}"
        self._model, self._max_tokens, self._hides_thinking = model, max_tokens, hides_thinking

    def whole(self, answer: WholeAnswer) -> bytes:
        self.read(answer)
        return orjson.dumps(self._message(self.usage))

    def opening(self) -> bytes:
        return b""  # how long the prompt is, which comes first, only the worker can say

    def accepted(self, accepted: Accepted) -> bytes:
        return _event("message_start", message=self._message(Usage(accepted.prompt_tokens, 0)))

    def begun(self, block: Block) -> bytes:
        return _event("content_block_start", index=block.index, content_block=_empty(self._output(block)))

    def grown(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        match block.kind:
            case "text":
                delta = {"type": "text_delta", "text": text}
            case "call":
                delta = {"type": "input_json_delta", "partial_json": text}
            case _ if self._hides_thinking:
                return b""
            case _:
                delta = {"type": "thinking_delta", "thinking": text}
        return _event("content_block_delta", index=block.index, delta=delta)

    def ended(self, block: Block) -> bytes:
        stop = _event("content_block_stop", index=block.index)
        if block.kind != "reasoning":
            return stop
        delta = {"type": "signature_delta", "signature": SIGNATURE}
        return _event("content_block_delta", index=block.index, delta=delta) + stop

    def end(self) -> bytes:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self.stop}
        return _event("message_delta", delta=delta, usage=delta_usage(self.usage)) + _event("message_stop")

    def error(self, error: APIError) -> bytes:
        return server_sent("error", error_body(error))

    def heartbeat(self) -> bytes:
        return _event("ping")

    def _message(self, usage: Usage) -> MessageObject:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [self._output(block) for block in self.blocks],
            "stop_reason": self._stop_reason(),
            "stop_sequence": self.stop,
            "stop_details": None,
            "container": None,
            "usage": message_usage(usage),
        }

    def _output(self, block: Block) -> OutputBlock:
        match block.kind:
            case "text":
                return {"type": "text", "text": block.text, "citations": None}
            case "call":
                call_id = f"toolu_{block.call_id.removeprefix('call_')}"
                return {
                    "type": "tool_use",
                    "id": call_id,
                    "name": block.name,
                    "input": _input(block.text),
                    "caller": {"type": "direct"},
                }
            case _:
                thinking = "" if self._hides_thinking else block.text
                return {"type": "thinking", "thinking": thinking, "signature": SIGNATURE}

    def _stop_reason(self) -> StopReason | None:
        match self.reason:
            case None:
                return None
            case "stop":
                return "end_turn" if self.stop is None else "stop_sequence"
            case "length":
                full = self.usage.completion_tokens < self._max_tokens
                return "model_context_window_exceeded" if full else "max_tokens"
            case "tool_calls":
                return "tool_use"
            case _:
                return "refusal"


def _input(arguments: str) -> dict[str, Any]:
    """As far as they were written: a call may be cut off."""
    try:
        value = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _empty(block: OutputBlock) -> dict[str, Any]:
    """As it begins: its text and signature follow."""
    return {**block, **{name: "" for name in ("text", "thinking", "signature") if name in block}}


def _event(kind: str, **fields: Any) -> bytes:
    return server_sent(kind, orjson.dumps({"type": kind, **fields}))
