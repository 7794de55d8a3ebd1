"""A model that answers at once, so that what is left is the server's own cost: python -m benchmarks.instant.

As `gateway`, this project's own server in front of it, with a key, limits, metrics and log lines as in
production. As `openai`, an HTTP server of a few lines, for other gateways to stand in front of; it also shows
what the client alone can do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Literal

import typer
import uvicorn

from benchmarks.client import KEY
from gateway.app import create_app
from gateway.ops.logs import configure_logging
from gateway.server import uvicorn_config
from gateway.settings import GatewaySettings
from worker.protocol import Accepted, Event, Finished, ModelInfo, Request, TextDelta, Usage, WorkerStats

MODEL = "instant"
CHUNKS = 100  # of a streamed answer
WORD = " word"


class InstantBackend:
    """Answers with CHUNKS words: each on its own to who streams, so that every one passes the whole way."""

    async def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(MODEL, 0, 4096)]

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        words: list[Event] = [TextDelta(0, WORD)] * CHUNKS
        yield [Accepted(10)]
        if request.stream:
            for word in words:
                yield [word]
                await asyncio.sleep(0)
            words = []
        yield [*words, Finished(0, "stop"), Usage(10, CHUNKS)]

    async def check(self) -> None: ...

    async def not_ready(self) -> Sequence[str]:
        return []

    async def stats(self) -> Sequence[WorkerStats]:
        return []

    async def running_models(self) -> Sequence[str]:
        return [MODEL]


def gateway(port: int) -> None:
    """Limits count, and are higher than what the load can reach."""
    settings = GatewaySettings.model_validate(
        {"api_keys": f"bench:{KEY}", "rate_limit_requests": 10**9, "rate_limit_tokens": 10**12}
    )
    configure_logging(settings.log_level, settings.log_json)
    config = uvicorn_config(create_app(InstantBackend(), settings), settings)
    config.port = port
    uvicorn.Server(config).run()


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _whole() -> bytes:
    message = {"role": "assistant", "content": WORD * CHUNKS}
    usage = {"prompt_tokens": 10, "completion_tokens": CHUNKS, "total_tokens": 10 + CHUNKS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
    return json.dumps({**body, "usage": usage}).encode()


def _framed(content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


STREAM = _framed(
    "text/event-stream", _chunk({"content": WORD}) * CHUNKS + _chunk({}, "stop") + b"data: [DONE]\n\n"
)
WHOLE = _framed("application/json", _whole())
MODELS = _framed("application/json", json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())


class OpenAIServer(asyncio.Protocol):
    """Reads requests one after the other from a connection; all that it looks at is whether they stream."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            _, _, length = head.partition(b"content-length:")
            size = int(length.split()[0]) if length else 0
            if len(self._received) < end + 4 + size:
                return
            body, self._received = self._received[end + 4 :][:size], self._received[end + 4 + size :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        streams = b'"stream":true' in body.replace(b" ", b"")
        self._transport.write(MODELS if head.startswith(b"get") else STREAM if streams else WHOLE)
        if b"connection: close" in head:
            self._transport.close()


async def openai_server(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(OpenAIServer, "127.0.0.1", port)
    await server.serve_forever()


def main(
    kind: Annotated[Literal["gateway", "openai"], typer.Argument()],
    port: int,
    core: Annotated[int | None, typer.Option(help="the processor core that it is held to")] = None,
) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    if kind == "gateway":
        gateway(port)
    else:
        asyncio.run(openai_server(port))


if __name__ == "__main__":
    typer.run(main)
