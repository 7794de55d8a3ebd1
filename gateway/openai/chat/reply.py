"""From the worker's events to OpenAI's shapes: pure functions, no HTTP and no waiting.

Shapes are those of OpenAI's API reference for chat completions (`chat.completion`,
`chat.completion.chunk`, `model`).
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import APIError
from worker.protocol import (
    Accepted,
    Event,
    Finished,
    FinishReason,
    ModelInfo,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    WorkerFailed,
)

SYSTEM_FINGERPRINT = "llama-gateway"
DONE = b"data: [DONE]\n\n"

# What the deprecated `functions` get instead of tool calls.
_FUNCTION_CALL = "function_call"


@dataclass(slots=True)
class Reply:
    """What every chunk of one answer has in common. `functions`: asked for by their deprecated name."""

    model: str
    object: str
    functions: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def frame(self, choices: list[dict[str, Any]], usage: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": choices,
            "usage": usage,
        }


@dataclass(slots=True)
class StreamEncoder(ABC):
    """Events to the bytes of an SSE stream: one write for all that a batch brings."""

    reply: Reply
    include_usage: bool
    _unfinished: set[int] = field(default_factory=set)

    def opening(self, num_choices: int) -> bytes:
        """What comes before the first text."""
        self._unfinished = set(range(num_choices))
        return b"".join(map(self._start, range(num_choices)))

    def encode(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._event(event) for event in events)

    def check_complete(self) -> None:
        """Clients take a stream that just ends for a finished one, so it must not."""
        if self._unfinished:
            raise unfinished()

    def _event(self, event: Event) -> bytes:
        match event:
            case Finished():
                self._unfinished.discard(event.index)
                return self._end(event)
            case Usage():
                return data(self.reply.frame([], usage_body(event))) if self.include_usage else b""
            case _:
                return self._piece(event)

    @abstractmethod
    def _start(self, index: int) -> bytes: ...

    @abstractmethod
    def _piece(self, event: Event) -> bytes: ...

    @abstractmethod
    def _end(self, finished: Finished) -> bytes: ...

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        frame = self.reply.frame([choice])
        if not self.include_usage:
            del frame["usage"]
        return data(frame)


@dataclass(slots=True)
class ChunkEncoder(StreamEncoder):
    """`chat.completion.chunk`."""

    def _start(self, index: int) -> bytes:
        return self._choice(index, {"role": "assistant", "content": ""})

    def _piece(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._choice(event.index, {"content": event.text}, logprobs=_logprobs(event.logprobs))
            case ReasoningDelta():
                return self._choice(event.index, {"reasoning_content": event.text})
            case ToolCallDelta():
                return self._choice(event.index, self._call(event))
            case _:
                return b""

    def _end(self, finished: Finished) -> bytes:
        return self._choice(finished.index, {}, finish_reason=_reason(finished.reason, self.reply))

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        """The first delta of a call introduces it, the later ones only add to its arguments."""
        function = {"arguments": event.arguments}
        if event.name is not None:
            function = {"name": event.name, **function}
        if self.reply.functions:
            return {_FUNCTION_CALL: function}
        head = {} if event.id is None else {"id": event.id, "type": "function"}
        return {"tool_calls": [{"index": event.call, **head, "function": function}]}

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        return self._chunk(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        )


def unfinished() -> WorkerFailed:
    return WorkerFailed("The worker ended before the answer was complete. Send the request again.")


def _reason(reason: FinishReason, reply: Reply) -> str:
    return _FUNCTION_CALL if reply.functions and reason == "tool_calls" else reason


def error_frame(error: APIError) -> bytes:
    """An error after the first byte: the stream's last event."""
    return b"data: " + error.body + b"\n\n"


def data(frame: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(frame) + b"\n\n"


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": "".join(self.arguments)}


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def message(self, reply: Reply) -> dict[str, Any]:
        text = "".join(self.text)
        content = None if self.calls and not text else text
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": [],
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls and reply.functions:
            message[_FUNCTION_CALL] = self.calls[0].function()
        elif self.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": call.function()} for call in self.calls
            ]
        return message


class Collector:
    """Events to one completion."""

    def __init__(self, num_choices: int) -> None:
        self.choices = [_Choice() for _ in range(num_choices)]
        self.usage = Usage(0, 0)
        self.ignored: tuple[str, ...] = ()

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Accepted():
                    self.ignored = event.ignored
                case TextDelta():
                    self.choices[event.index].text.append(event.text)
                    self.choices[event.index].logprobs.extend(event.logprobs)
                case ReasoningDelta():
                    self.choices[event.index].reasoning.append(event.text)
                case ToolCallDelta():
                    self._add_call(event)
                case Finished():
                    self.choices[event.index].finish_reason = event.reason
                case Usage():
                    self.usage = event

    def _add_call(self, delta: ToolCallDelta) -> None:
        calls = self.choices[delta.index].calls
        if delta.id is not None and delta.name is not None:
            calls.append(_Call(delta.id, delta.name))
        calls[delta.call].arguments.append(delta.arguments)

    def check_complete(self) -> None:
        if any(choice.finish_reason is None for choice in self.choices):
            raise unfinished()

    def text(self, index: int = 0) -> str:
        return "".join(self.choices[index].text)

    def completion(self, reply: Reply) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": choice.message(reply),
                "logprobs": _logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason and _reason(choice.finish_reason, reply),
            }
            for index, choice in enumerate(self.choices)
        ]
        return reply.frame(choices, usage_body(self.usage))


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [{**_logprob(token), "top_logprobs": [_logprob(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def model_body(model: ModelInfo) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": "llama-gateway"}
