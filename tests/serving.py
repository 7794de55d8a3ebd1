"""A real HTTP server around a scripted backend, for tests of the gateway without a model."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.backends.base import Backend
from gateway.ops.logs import configure_logging
from gateway.server import listen, uvicorn_config
from gateway.settings import GatewaySettings
from worker.protocol import (
    Accepted,
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    ModelInfo,
    Request,
    TextDelta,
    Usage,
    WorkerError,
    WorkerStats,
)

# Scripts know which kind of request they answer.
Script = Callable[["ScriptedBackend", Any], AsyncGenerator[list[Event]]]


async def say_hello(
    backend: ScriptedBackend, request: ChatRequest | CompletionRequest
) -> AsyncGenerator[list[Event]]:
    num_choices = request.n * (len(request.prompts) if isinstance(request, CompletionRequest) else 1)
    yield [Accepted(5)]
    for index in range(num_choices):
        yield [TextDelta(index, "Hel"), TextDelta(index, "lo")]
        yield [Finished(index, "stop")]
    yield [Usage(5, 2 * num_choices, cached_tokens=3)]


@dataclass
class ScriptedBackend:
    """Answers by a script, and remembers what it was asked and how many answers were closed."""

    script: Script = say_hello
    health: WorkerError | None = None
    figures: Sequence[WorkerStats] = ()
    served: list[ModelInfo] = field(default_factory=lambda: [ModelInfo("test-model", 1700000000, 512)])
    reasons: Sequence[str] = ()  # not to be ready
    requests: list[Any] = field(default_factory=list)
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def models(self) -> Sequence[ModelInfo]:
        return self.served

    async def check(self) -> None:
        if self.health is not None:
            raise self.health

    async def not_ready(self) -> Sequence[str]:
        return self.reasons

    async def stats(self) -> Sequence[WorkerStats]:
        return self.figures

    async def running_models(self) -> Sequence[str]:
        return ["test-model"]

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        self.requests.append(request)
        try:
            async for batch in self.script(self, request):
                yield batch
        finally:
            self.closed.release()


@contextlib.contextmanager
def serving(
    backend: Backend,
    settings: GatewaySettings | None = None,
    stopping: asyncio.Event | None = None,
) -> Iterator[str]:
    settings = settings or GatewaySettings()
    with listening(create_app(backend, settings, stopping), settings) as url:
        yield url


@contextlib.contextmanager
def listening(app: FastAPI, settings: GatewaySettings) -> Iterator[str]:
    """The server's root URL; it is stopped, and its thread has ended, on leaving."""
    configure_logging("info", as_json=False)
    server = uvicorn.Server(uvicorn_config(app, settings))
    listener = listen("127.0.0.1", 0)
    started = threading.Event()
    startup = server.startup

    async def announce(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = announce  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        assert started.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
