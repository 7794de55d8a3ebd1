"""The load generator: streaming chat requests that cost next to no CPU.

Client and server share the same cores, so while an answer runs the client only stamps the bytes that
arrive. HTTP chunks, server-sent events and JSON are decoded later (benchmarks/replies.py).
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-bench"  # of servers that ask for one; the others do not look at it
Stamped = tuple[float, bytes]  # the moment bytes arrived, and the bytes


@dataclass(slots=True)
class Recording:
    """One exchange as it came off the socket; times are `time.perf_counter()` seconds.

    `opening`: a client's first, sent at the same moment as every other client's, or a conversation's first.
    """

    sent: float
    pieces: list[Stamped] = field(default_factory=list)
    closed: float = 0.0
    error: str | None = None
    opening: bool = False


class _Exchange(asyncio.Protocol):
    """Sends one request and records the answer until the server closes the connection."""

    def __init__(self, request: bytes, recording: Recording) -> None:
        self._request = request
        self._recording = recording
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._recording.pieces.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(exc)


async def exchange(port: int, request: bytes, timeout: float = 600.0) -> Recording:
    """Send `request` to localhost on a connection of its own; network failures are in `error`."""
    recording = Recording(sent=time.perf_counter())
    try:
        async with asyncio.timeout(timeout):
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection(
                lambda: _Exchange(request, recording), "127.0.0.1", port
            )
            try:
                lost = await protocol.closed
            finally:
                transport.abort()
        recording.error = repr(lost) if lost else None
    except (OSError, TimeoutError) as error:
        recording.error = repr(error)
    recording.closed = time.perf_counter()
    return recording


async def closed_loop(port: int, requests: Iterable[bytes], clients: int) -> list[Recording]:
    """`clients` callers share `requests`; each sends its next one when its last answer is complete."""
    pending = iter(requests)
    recordings: list[Recording] = []

    async def client() -> None:
        opening = True
        for request in pending:
            recording = await exchange(port, request)
            recording.opening, opening = opening, False
            recordings.append(recording)

    with undisturbed():
        await asyncio.gather(*(client() for _ in range(clients)))
    return recordings


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without garbage collection: in the client, it would show up as latency of the server."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def chat_request(body: dict[str, Any]) -> bytes:
    """The raw HTTP request of a chat completion, on a connection that ends with the answer."""
    content = json.dumps(body, ensure_ascii=False).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
