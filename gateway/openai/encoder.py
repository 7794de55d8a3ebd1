"""What chat and text completions have in common on their way out: ids, usage, `data:` lines, [DONE]."""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.answers.encoder import Encoder
from gateway.errors import APIError
from worker.protocol import Event, Usage


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int


class CompletionUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def completion_usage(usage: Usage) -> CompletionUsage:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class Head(TypedDict):
    """What every chunk of one answer repeats; `created` is a Unix time in seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Chunk(Head):
    """`usage` is there only if asked for: null in all chunks but the last, which has no choices."""

    choices: list[Any]
    usage: NotRequired[CompletionUsage | None]


def head(prefix: str, model: str) -> Head:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": "llama-gateway",
    }


class CompletionEncoder(Encoder):
    """`frame` is filled anew for every chunk: nothing but its choices changes."""

    def __init__(self, frame: Chunk, include_usage: bool) -> None:
        self._frame, self._include_usage = frame, include_usage
        if not include_usage:
            del frame["usage"]

    @abstractmethod
    def event(self, event: Event) -> bytes: ...

    def events(self, events: Iterable[Event]) -> bytes:
        return b"".join([self.event(event) for event in events])

    def error(self, error: APIError) -> bytes:
        return b"data: " + error.body + b"\n\n"

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def heartbeat(self) -> bytes:
        return b": keep-alive\n\n"

    def chunk(self, choice: Mapping[str, Any]) -> bytes:
        self._frame["choices"] = [choice]
        return b"data: " + orjson.dumps(self._frame) + b"\n\n"

    def usage(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return b""
        last: Chunk = {**self._frame, "choices": [], "usage": completion_usage(usage)}
        return b"data: " + orjson.dumps(last) + b"\n\n"
