"""A server that stops takes no new requests."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import APIError
from gateway.ops.logs import QUIET_ROUTES

RETRY_SECONDS = 5  # by then another server, or this one anew, may answer


class Admission:
    """Refuses what comes after `stopping` is set, but for the routes that tell of it."""

    def __init__(self, app: ASGIApp, stopping: asyncio.Event) -> None:
        self._app, self._stopping = app, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._stopping.is_set() and scope["path"] not in QUIET_ROUTES:
            raise APIError(
                503,
                "The server is stopping and takes no new requests. Please send it again.",
                type="server_error",
                code="server_stopping",
                headers={"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
            )
        await self._app(scope, receive, send)
