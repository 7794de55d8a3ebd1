"""Gateway and worker in one process, under uvicorn."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gateway.access.keys import KeyRing
from gateway.app import create_app
from gateway.backends.local import local_models, shared_memory
from gateway.http10 import Protocol
from gateway.ops.logs import configure_logging
from gateway.settings import GatewaySettings, StartError
from gateway.terminal import say
from worker.llama.interrupts import INTERRUPTED
from worker.settings import WorkerSettings

BANNER = """
Serving {model} at {base_url}  (loaded in {seconds:.1f} s; Ctrl-C stops)
{slots} requests at a time, {context} tokens of context each; set LLM_SLOTS, LLM_CTX or MEM_MB for others.
{others}
  curl {base_url}/chat/completions -H 'Content-Type: application/json'{auth_header} \\
    -d '{{"model": "{model}", "max_tokens": 40,
         "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{base_url}", api_key="{key}")
  messages = [{{"role": "user", "content": "What is the capital of France?"}}]
  reply = client.chat.completions.create(model="{model}", messages=messages, max_tokens=40)
  print(reply.choices[0].message.content)
"""

EMBEDDING_BANNER = """
Serving {model} at {base_url}  (loaded in {seconds:.1f} s; Ctrl-C stops)
An embedding model: up to {context} tokens of each input; set LLM_CTX for fewer.
{others}
  curl {base_url}/embeddings -H 'Content-Type: application/json'{auth_header} \\
    -d '{{"model": "{model}", "input": ["one text", "another"]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{base_url}", api_key="{key}")
  reply = client.embeddings.create(model="{model}", input=["one text", "another"])
  print(reply.data[0].embedding)
"""


class Server(uvicorn.Server):
    """Says how to use it once it listens; sets `stopping` when it is told to stop."""

    def __init__(
        self, config: uvicorn.Config, banner: str, stopping: asyncio.Event, grace_seconds: float
    ) -> None:
        super().__init__(config)
        self._banner, self._stopping, self._grace_seconds = banner, stopping, grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            say(self._banner)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Go on listening while answers under way have their time: who asks is told to come back."""
        self._stopping.set()
        if self.server_state.tasks:
            say("Stopping: answers under way may still finish. Ctrl-C again stops at once.")
        deadline = time.monotonic() + self._grace_seconds
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os._exit(INTERRUPTED)  # to cancel what runs would take seconds, and a traceback for each
        # The base class would raise the signal again at the end, and the process end by it.
        self.should_exit = True


def run(
    worker_settings: Sequence[WorkerSettings], gateway_settings: GatewaySettings, host: str, port: int
) -> None:
    """Load the first model, serve all until told to stop, free them."""
    configure_logging(gateway_settings.log_level, gateway_settings.log_json)
    KeyRing(
        gateway_settings
    )  # what is wrong with the keys is told before the model is loaded, as a StartError
    listener = listen(host, port)
    say(f"Loading {worker_settings[0].served_name}…", err=True)
    started = time.perf_counter()
    with local_models(shared_memory(worker_settings)) as models:
        stopping = asyncio.Event()
        config = uvicorn_config(create_app(models, gateway_settings, stopping), gateway_settings)
        worker = models.first
        banner = (EMBEDDING_BANNER if worker.model.kind == "embedding" else BANNER).format(
            model=worker.model.id,
            slots=worker.num_slots,
            context=worker.model.context_length,
            others=_others([each.served_name for each in worker_settings[1:]]),
            base_url=f"http://{_authority(listener)}/v1",
            seconds=time.perf_counter() - started,
            auth_header=" -H 'Authorization: Bearer YOUR_KEY'" if gateway_settings.asks_for_keys else "",
            key="YOUR_KEY" if gateway_settings.asks_for_keys else "unused",
        )
        Server(config, banner, stopping, gateway_settings.shutdown_grace_seconds).run(sockets=[listener])


def _others(names: Sequence[str]) -> str:
    return f"Loaded when they are first asked for: {', '.join(names)}.\n" if names else ""


def uvicorn_config(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        log_level="warning",
        access_log=False,
        log_config=None,  # its lines go where all others do
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds) + 5,
        root_path=settings.root_path,
        # A client that reuses a connection just as the server closes it has lost its request.
        timeout_keep_alive=settings.keep_alive_seconds,
        headers=[("keep-alive", f"timeout={settings.keep_alive_seconds}")],
    )


def listen(host: str, port: int) -> socket.socket:
    """Bound before the model is loaded: what is wrong with the address is told at once, as a StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's delays off, 40 ms an answer, only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            advice = "Choose another port with --port or PORT=."
        else:
            advice = "Choose an address of this machine with --host or HOST=."
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}. {advice}") from error
    return listener


def _authority(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
