"""A request to the API from inside of it: what a batch asks goes the way that every request goes."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Scope

from gateway.caller import Caller, set_caller
from gateway.openai.batches.run import Post


def post_to(app: ASGIApp) -> Post:
    """Bodies are posted as JSON, and waited for as long as it takes."""

    async def post(path: str, body: bytes, caller: Caller) -> tuple[int, str, bytes]:
        status, headers, parts = 500, {}, []
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # nobody leaves
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], dict(message["headers"])
            else:
                parts.append(message.get("body", b""))

        scope = _scope(path, len(body))
        set_caller(scope, caller)  # its prefixes, its fair share, its name in the log
        await app(scope, receive, send)
        return status, headers.get(b"x-request-id", b"").decode("latin-1"), b"".join(parts)

    return post


def _scope(path: str, length: int) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(length).encode())],
        "client": None,
        "server": None,
    }
