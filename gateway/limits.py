"""Limits that are on by default."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import APIError


class BodyLimit:
    """Answers 413 to a body larger than `max_bytes`, before anything reads it into memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > self._max_bytes:
            return await self._refusal().response()(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> APIError:
        message = (
            f"The request body is larger than this server's limit of {self._max_bytes} bytes. Send less, "
            "or raise MAX_BODY_BYTES."
        )
        return APIError(413, message, code="request_too_large", headers={"Connection": "close"})
