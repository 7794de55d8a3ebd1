"""The load generator: a closed loop of streaming chat requests that costs next to no CPU.

Client and server share the same cores, so while the load runs the client only stamps the bytes that
arrive. HTTP chunks, server-sent events and JSON are decoded after the last byte is in.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Stamped = tuple[float, bytes]  # the moment bytes arrived, and the bytes


@dataclass(slots=True)
class Recording:
    """One exchange as it came off the socket; times are `time.perf_counter()` seconds.

    `opening`: a client's first, sent at the same moment as every other client's.
    """

    sent: float
    pieces: list[Stamped] = field(default_factory=list)
    closed: float = 0.0
    error: str | None = None
    opening: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One exchange decoded. `content_times` has one entry for each event that carried text."""

    sent: float
    closed: float
    content_times: tuple[float, ...]
    tokens: int
    error: str | None
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, as far as the server says so
    opening: bool = False

    @property
    def time_to_first_token(self) -> float:
        return self.content_times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive pieces of text, as a reader sees them."""
        return [later - earlier for earlier, later in pairwise(self.content_times)]


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

    gc.disable()  # a collection in the client would show up as latency of the server
    try:
        await asyncio.gather(*(client() for _ in range(clients)))
    finally:
        gc.enable()
    return recordings


def chat_request(body: dict[str, Any]) -> bytes:
    """The raw HTTP request of a chat completion, on a connection that ends with the answer."""
    content = json.dumps(body, ensure_ascii=False).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def decode(recording: Recording) -> Reply:
    """What the recorded answer amounts to: when text came, how many tokens, whether it was whole."""
    times: list[float] = []
    usage: dict[str, Any] = {}
    finished = False
    status, body = split_head(recording.pieces)
    error = recording.error or (None if status == 200 else f"HTTP status {status}")
    for when, payload in events(body):
        if payload == b"[DONE]":
            continue
        event = json.loads(payload)
        if "error" in event:
            error = f"error event: {event['error']}"
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            finished = finished or choice["finish_reason"] is not None
            if choice["delta"].get("content"):
                times.append(when)
    if error is None and not finished:
        error = "the stream ended early"
    return Reply(
        recording.sent,
        recording.closed,
        tuple(times),
        usage.get("completion_tokens", len(times)),
        error,
        usage.get("prompt_tokens", 0),
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        recording.opening,
    )


def split_head(pieces: Sequence[Stamped]) -> tuple[int, list[Stamped]]:
    """The status code (0 without a complete head) and the stamped body without its HTTP framing."""
    head = b""
    for index, (when, data) in enumerate(pieces):
        head += data
        if b"\r\n\r\n" in head:
            head, _, rest = head.partition(b"\r\n\r\n")
            body = [(when, rest), *pieces[index + 1 :]]
            chunked = b"transfer-encoding: chunked" in head.lower()
            return int(head.split(maxsplit=2)[1]), list(dechunk(body)) if chunked else body
    return 0, []


def dechunk(pieces: Iterable[Stamped]) -> Iterator[Stamped]:
    """Remove HTTP/1.1 chunk framing; a chunk's time is the arrival of its last byte."""
    buffer = b""
    for when, data in pieces:
        buffer += data
        while (line_end := buffer.find(b"\r\n")) >= 0:
            end = line_end + 2 + int(buffer[:line_end].partition(b";")[0], 16)
            if len(buffer) < end + 2:
                break
            yield when, buffer[line_end + 2 : end]
            buffer = buffer[end + 2 :]


def events(pieces: Iterable[Stamped]) -> Iterator[Stamped]:
    """The payload of every `data:` line; OpenAI streams never spread one event over several lines."""
    buffer = b""
    for when, data in pieces:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield when, line[5:].strip()
