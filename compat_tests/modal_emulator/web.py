"""HTTP servers inside the emulator's event loop, one per port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; 0 for any free port.

    Its protocol is named because asyncio switches Nagle's algorithm off only where it reads "TCP", and
    with it each message waits 40 ms for an acknowledgement.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(100)
    return listener


@dataclass(slots=True)
class HttpServer:
    url: str
    _server: uvicorn.Server
    _task: asyncio.Task[None]

    @classmethod
    async def start(cls, app: Callable[..., Awaitable[Any]], port: int = 0) -> HttpServer:
        listener = listen(port)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        return cls(f"http://{HOST}:{listener.getsockname()[1]}", server, task)

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._task
