"""What is known of one request by the time it ends: what its log line and the metrics are made of."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.types import Scope

from gateway.caller import ANYBODY, caller_of
from worker.protocol import (
    Accepted,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Event,
    Finished,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_CLIENTS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_WORKER_ID = 64  # bytes that Modal allows in a queue's partition


@dataclass(slots=True)
class RequestRecord:
    """`id` is the client's own if it sent one that can be used, `worker_id` what the worker knows it by.

    No two requests share a `worker_id`, whatever clients send: aborts go by it. Times are in seconds.
    """

    method: str
    id: str
    worker_id: str
    route: str = "unknown"  # the path as the application declares it, of which no client can make new ones
    status: int = 0  # as it was sent; 0 if none was
    model: str | None = None
    usage: Usage | None = None
    num_computed: int = 0  # tokens of the prompt and, at the least, of the answer so far
    finish_reasons: list[str] = field(default_factory=list)
    first_token_seconds: float | None = None
    error: str | None = None  # the code of what ended an answer after its status was sent
    client_left: bool = False
    usage_seconds: float | None = None  # when the usage came
    trace_id: str | None = None
    prompt: object = None  # only where LOG_PROMPTS asks for it
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.started

    def asks(self, request: Request, with_prompt: bool) -> None:
        """Note what a worker is asked."""
        self.model = request.model
        if with_prompt:
            match request:
                case ChatRequest():
                    self.prompt = request.messages
                case CompletionRequest():
                    self.prompt = request.prompts
                case EmbeddingRequest():
                    self.prompt = request.inputs

    @property
    def tokens(self) -> int:
        """What it took, as far as it is known: who leaves early gets no usage."""
        if self.usage is None:
            return self.num_computed
        return self.usage.prompt_tokens + self.usage.completion_tokens

    def observe(self, events: Iterable[Event]) -> None:
        """Once a batch, whether or not the client asked for usage."""
        for event in events:
            if isinstance(event, Accepted):
                self.num_computed += event.prompt_tokens
            elif isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                self.num_computed += 1
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallDelta() if self.first_token_seconds is None:
                    self.first_token_seconds = self.seconds
                case Finished():
                    self.finish_reasons.append(event.reason)
                case Usage():
                    self.usage, self.usage_seconds = event, self.seconds


def new_record(method: str, clients_id: str) -> RequestRecord:
    """With the client's own id, unless it would be of no use in a header or a log."""
    if not _CLIENTS_ID.fullmatch(clients_id):
        made = f"req_{secrets.token_hex(12)}"
        return RequestRecord(method, made, made)
    suffix = f".{secrets.token_hex(8)}"
    return RequestRecord(method, clients_id, clients_id[: _MAX_WORKER_ID - len(suffix)] + suffix)


def caller_name(scope: Scope) -> str:
    """The name of the key that was sent, never the key."""
    return (caller_of(scope) or ANYBODY).name
