"""What a request leaves behind: its id in headers and log lines, its duration, its token counts."""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections.abc import Iterable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientLeft
from worker.protocol import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

API_VERSION = "2020-10-01"  # what OpenAI's own servers send as `openai-version`
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; seen by the log only

log = structlog.get_logger("gateway")


def configure_logging(level: str, as_json: bool) -> None:
    """One line an event on stderr, for people or for machines."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("worker").setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class RequestContext:
    """Gives each request an id and a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["request-id"] = request_id  # as Anthropic's clients look for it
                headers["openai-version"] = API_VERSION
                headers["openai-processing-ms"] = str(_milliseconds(started))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientLeft:
                status = CLIENT_CLOSED_REQUEST
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=_milliseconds(started),
                )


class CompletionLog:
    """Counts one completion as its events pass by, whether or not the client asked for usage."""

    def __init__(self, model: str) -> None:
        self._model, self._started = model, time.perf_counter()
        self._first_token: int | None = None
        self._reasons: list[str] = []

    @property
    def num_finished(self) -> int:
        """How many choices are complete."""
        return len(self._reasons)

    def observe(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallDelta() if self._first_token is None:
                    self._first_token = _milliseconds(self._started)
                case Finished():
                    self._reasons.append(event.reason)
                case Usage():
                    self._write(event)

    def _write(self, usage: Usage) -> None:
        log.info(
            "completion",
            model=self._model,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            finish_reason=",".join(self._reasons),
            ttft_ms=self._first_token,
            ms=_milliseconds(self._started),
        )


def log_embeddings(model: str, num_inputs: int, num_tokens: int, started: float) -> None:
    log.info(
        "embeddings", model=model, inputs=num_inputs, prompt_tokens=num_tokens, ms=_milliseconds(started)
    )


def _milliseconds(since: float) -> int:
    return round((time.perf_counter() - since) * 1000)
