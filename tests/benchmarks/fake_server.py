"""Servers of a few lines that answer chat completions with what a test wrote down."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.running import Server

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\r\n\r\n"


def delta(content: str | None, finish_reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content, **more}, "finish_reason": finish_reason}
    return event(choices=[choice])


def usage(prompt: int, output: int, cached: int) -> bytes:
    details = {"cached_tokens": cached}
    numbers = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": details}
    return event(choices=[], usage=numbers)


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


DONE = b"data: [DONE]\n\n"
ANSWER = (delta(""), delta("Hel"), delta("lo"), delta(None, "length"), usage(100, 7, 60), DONE)


def tool_call(name: str, *arguments: str) -> tuple[bytes, ...]:
    """A streamed call whose arguments come in these pieces."""
    opening = {"index": 0, "id": "call-1", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in arguments]
    calls = [delta(None, tool_calls=[fragment]) for fragment in [opening, *pieces]]
    return (*calls, delta(None, "tool_calls"), usage(100, 7, 60), DONE)


Body = dict[str, Any]


@contextlib.asynccontextmanager
async def serving(answer: Callable[[Body], Awaitable[tuple[bytes, ...]]]) -> AsyncIterator[Server]:
    """Whatever is asked, `answer` is given the request's body and says which events come back."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        body = json.loads(await reader.readexactly(length))
        writer.write(HEAD + chunked(*await answer(body)))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield Server(server.sockets[0].getsockname()[1], "fake", pid=0)
