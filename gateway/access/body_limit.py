"""Limits that are on by default."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import APIError

DISCARD_FACTOR = 8  # how many times the limit is read, and thrown away, for the sake of a clean refusal


class BodyLimit:
    """Answers 413 to a body larger than `max_bytes`, before anything reads it into memory.

    `elsewhere` has the limits of paths that take more, since they read bodies to disk.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, elsewhere: Mapping[str, int] | None = None) -> None:
        self._app, self._max_bytes, self._elsewhere = app, max_bytes, elsewhere or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        most = self._elsewhere.get(scope["path"].removeprefix(scope.get("root_path", "")), self._max_bytes)
        headers = dict(scope["headers"])
        if int(headers.get(b"content-length", b"0")) > most:
            if headers.get(b"expect", b"").lower() != b"100-continue":  # or the client asks before it sends
                await self._discard(receive)
            raise self._refusal(most)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                if message.get("more_body"):
                    await self._discard(receive)
                raise self._refusal(most)
            return message

        await self._app(scope, counted, send)

    async def _discard(self, receive: Receive) -> None:
        """Read what the client is still sending: closing on it would lose the answer. But not without end."""
        discarded = 0
        while discarded < DISCARD_FACTOR * self._max_bytes:
            message = await receive()
            discarded += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                return

    def _refusal(self, most: int) -> APIError:
        setting = "MAX_BODY_BYTES" if most == self._max_bytes else "FILE_MB"
        message = f"The request body is larger than the limit of {most} bytes. Send less, or raise {setting}."
        return APIError(413, message, code="request_too_large", headers={"Connection": "close"})
