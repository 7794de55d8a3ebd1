"""Between OpenAI's shapes and the worker's: pure functions, no HTTP and no waiting.

Shapes are those of OpenAI's API reference for chat completions (`chat.completion`,
`chat.completion.chunk`, `model`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from gateway import schemas
from gateway.errors import APIError, unsupported
from worker.protocol import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    ModelInfo,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Usage,
)

T = TypeVar("T")

SYSTEM_FINGERPRINT = "llama-gateway"
DONE = b"data: [DONE]\n\n"

# Parameters that would change the answer and that no model behind this server can honour.
_REFUSED = {
    "audio": "these models answer in text only.",
    "web_search_options": "this server has no access to the web.",
    "moderation": "this server does not moderate.",
}
_NOT_YET = ("tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs")


def chat_request(body: schemas.ChatCompletionRequest, request_id: str) -> ChatRequest:
    """The worker's request. Raises APIError for what cannot be honoured, never ignores it."""
    refuse_unsupported(body)
    return ChatRequest(
        request_id=request_id,
        model=body.model,
        messages=[_message(message, f"messages[{i}]") for i, message in enumerate(body.messages)],
        sampling=_sampling(body),
        n=body.n or 1,
        stream=bool(body.stream),
    )


def generate_request(message: str, model: str, request_id: str) -> ChatRequest:
    return ChatRequest(request_id, model, [{"role": "user", "content": message}], stream=False)


def refuse_unsupported(body: schemas.ChatCompletionRequest) -> None:
    extra = body.model_extra or {}
    for name, why in _REFUSED.items():
        if extra.get(name) is not None:
            raise unsupported(name, why)
    if extra.get("store"):
        raise unsupported("store", "nothing is stored here. Leave it out or send false.")
    if extra.get("modalities") not in (None, ["text"]):
        raise unsupported("modalities", 'these models answer in text only. Leave it out or send ["text"].')
    for name in _NOT_YET:
        if getattr(body, name) not in (None, False, "none", []):
            raise unsupported(name, "this version of the server cannot do that yet.")
    if body.response_format is not None and body.response_format.type != "text":
        raise unsupported("response_format", "this version of the server answers in plain text only.")


def _sampling(body: schemas.ChatCompletionRequest) -> SamplingParams:
    defaults = SamplingParams()
    return SamplingParams(
        temperature=_or(body.temperature, defaults.temperature),
        top_p=_or(body.top_p, defaults.top_p),
        top_k=_or(body.top_k, defaults.top_k),
        min_p=_or(body.min_p, defaults.min_p),
        repeat_penalty=_or(body.repeat_penalty, defaults.repeat_penalty),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        seed=body.seed,
        stop=_stop(body.stop),
        max_tokens=body.max_completion_tokens or body.max_tokens,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(string for string in strings if string)


def _message(message: schemas.Message, where: str) -> dict[str, Any]:
    """The chat template's own form: a role that templates know, and content as one text."""
    role = "system" if message.role == "developer" else message.role
    translated: dict[str, Any] = {"role": role, "content": _text(message.content, f"{where}.content")}
    if getattr(message, "name", None):
        translated["name"] = getattr(message, "name")  # noqa: B009
    return translated


def _text(content: str | Sequence[schemas.Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part_text(part: schemas.Part, where: str) -> str:
    match part:
        case schemas.TextPart():
            return part.text
        case schemas.RefusalPart():
            return part.refusal
        case _:
            raise unsupported(where, f"this model takes text only, not '{part.type}'.")


@dataclass(slots=True)
class Reply:
    """What every chunk of one answer has in common."""

    model: str
    object: str
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
class ChunkEncoder:
    """Events to the bytes of an SSE stream: one write for all that a batch brings."""

    reply: Reply
    include_usage: bool

    def opening(self, num_choices: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._choice(index, delta) for index in range(num_choices))

    def encode(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._event(event) for event in events)

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._choice(event.index, {"content": event.text}, logprobs=_logprobs(event.logprobs))
            case Finished():
                return self._choice(event.index, {}, finish_reason=event.reason)
            case Usage() if self.include_usage:
                return _data(self.reply.frame([], usage_body(event)))
            case _:
                return b""

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish_reason: FinishReason | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        frame = self.reply.frame([choice])
        if not self.include_usage:
            del frame["usage"]
        return _data(frame)


def error_frame(error: APIError) -> bytes:
    """An error after the first byte: the stream's last event."""
    return b"data: " + error.body + b"\n\n"


def _data(frame: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(frame) + b"\n\n"


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Collector:
    """Events to one completion."""

    def __init__(self, num_choices: int) -> None:
        self.choices = [_Choice() for _ in range(num_choices)]
        self.usage = Usage(0, 0)

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case TextDelta():
                    self.choices[event.index].text.append(event.text)
                    self.choices[event.index].logprobs.extend(event.logprobs)
                case Finished():
                    self.choices[event.index].finish_reason = event.reason
                case Usage():
                    self.usage = event

    def text(self, index: int = 0) -> str:
        return "".join(self.choices[index].text)

    def completion(self, reply: Reply) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": self.text(index), "refusal": None},
                "logprobs": _logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
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
