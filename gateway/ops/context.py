"""Around each request: its id in headers and log lines, its record, and what is made of that at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientLeft
from gateway.ops.logs import log_request
from gateway.ops.metrics import Metrics
from gateway.record import RequestRecord, new_record

if TYPE_CHECKING:
    from gateway.ops.tracing import Tracing

API_VERSION = "2020-10-01"  # what OpenAI's own servers send as `openai-version`


class RequestContext:
    """Puts a RequestRecord into the scope's state, as `record`; logs and counts it when the request ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = new_record(scope["method"], Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["record"] = record

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.id
                headers["request-id"] = record.id  # as Anthropic's clients look for it
                headers["openai-version"] = API_VERSION
                headers["openai-processing-ms"] = str(round(record.seconds * 1000))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=record.id), self._metrics.active():
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientLeft:
                record.client_left = True
            finally:
                if self._tracing is not None:
                    self._tracing.observe(record, scope)
                log_request(record, scope)
                self._metrics.observe(record, scope)


class NoteRoute:
    """Innermost, since others may hand on a copy of the scope, and the router writes into the last one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http" and (route := scope.get("route")) is not None:
                record: RequestRecord = scope["state"]["record"]
                record.route = route.path
