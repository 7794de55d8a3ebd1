"""What a gateway itself costs: requests, streamed chunks and memory beside a model that answers at once.

The peers are this project's server, the proxy of LiteLLM in front of an HTTP server, and LiteLLM with an
answer of its own, which spares it the second connection. Each has one core, the client the other. `direct` is
the client with that HTTP server and nothing between: what everything is measured against.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import CACHE
from benchmarks.client import KEY, Recording, chat_request, closed_loop
from benchmarks.instant import CHUNKS, MODEL, WORD
from benchmarks.machine import memory
from benchmarks.peer import Peer, Setup, environment
from benchmarks.replies import decode, split_head
from benchmarks.running import Server, running
from benchmarks.summary import percentile

LITELLM = ("litellm[proxy]==1.96.2", "fastapi==0.124.4")  # newer ones do not go together
SERVER_CORE, CLIENT_CORE = 0, 1
CLIENTS = 16
SETUP = Setup(Path("none"))
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True, slots=True)
class Cost:
    """`median` and `p95` in seconds, of whole answers to one client; rates with CLIENTS at a time; MiB.

    Where one of many was an error, `errors` says how many; their times are not in the figures.
    """

    requests_per_s: float
    chunks_per_s: float
    median: float
    p95: float
    rss: float
    errors: int
    added_median: float = 0.0  # beyond what the client and the HTTP server alone took


def measure(seconds: float) -> dict[str, Cost]:
    """By the gateway's name; `direct` comes first. Each rate is taken over `seconds`."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    costs: dict[str, Cost] = {}
    with running(_instant("direct", "openai", CLIENT_CORE), SETUP) as backend:
        costs["direct"] = direct = asyncio.run(_measure(backend, seconds))
        for peer in (
            _instant("ours", "gateway", SERVER_CORE),
            _litellm("litellm", f"api_base: http://127.0.0.1:{backend.port}/v1"),
            _litellm("litellm-mock", f'mock_response: "{WORD * CHUNKS}"'),
        ):
            with running(peer, SETUP) as server:
                cost = asyncio.run(_measure(server, seconds))
            costs[peer.name] = replace(cost, added_median=cost.median - direct.median)
    return costs


def _instant(name: str, kind: str, core: int) -> Peer:
    def command(python: Path, setup: Setup, port: int) -> list[str]:
        return [str(python), "-m", "benchmarks.instant", kind, str(port), "--core", str(core)]

    return Peer(name, lambda: Path(sys.executable), command, lambda python: [], "this project", ours=True)


def _litellm(name: str, answer: str) -> Peer:
    def command(python: Path, setup: Setup, port: int) -> list[str]:
        config = CACHE / f"{name}.yaml"
        config.write_text(
            f"model_list:\n- model_name: {MODEL}\n  litellm_params:\n    model: openai/{MODEL}\n"
            f"    api_key: none\n    {answer}\ngeneral_settings:\n  master_key: {KEY}\n"
        )
        pinned = ["taskset", "--cpu-list", str(SERVER_CORE), str(python.with_name("litellm"))]
        return [*pinned, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]

    def env(setup: Setup, port: int) -> dict[str, str]:
        # Its table of prices would be downloaded. A log line for each request is what ours writes too.
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "INFO"}

    return Peer(name, lambda: environment("litellm", *LITELLM), command, lambda python: [], LITELLM[0], env)


async def _measure(server: Server, seconds: float) -> Cost:
    whole = chat_request({"model": server.model_id, "messages": MESSAGES})
    stream = chat_request({"model": server.model_id, "messages": MESSAGES, "stream": True})
    for request in (whole, stream):
        await closed_loop(server.port, _for(2.0, request), CLIENTS)
    single = await closed_loop(server.port, _for(seconds, whole), 1)
    started = time.perf_counter()
    many = await closed_loop(server.port, _for(seconds, whole), CLIENTS)
    between = time.perf_counter()
    streamed = [decode(each) for each in await closed_loop(server.port, _for(seconds, stream), CLIENTS)]
    ended = max(reply.closed for reply in streamed)
    times = [each.closed - each.sent for each in single if _is_good(each)]
    good = [each for each in many if _is_good(each)]
    chunks = sum(len(reply.content_times) for reply in streamed if reply.error is None)
    return Cost(
        requests_per_s=len(good) / (max(each.closed for each in many) - started),
        chunks_per_s=chunks / (ended - between),
        median=statistics.median(times),
        p95=percentile(times, 95),
        rss=memory(server.pid, "VmHWM"),
        errors=sum(not _is_good(each) for each in [*single, *many])
        + sum(reply.error is not None for reply in streamed),
    )


def _is_good(recording: Recording) -> bool:
    return recording.error is None and split_head(recording.pieces)[0] == 200


def _for(seconds: float, request: bytes) -> Iterator[bytes]:
    """The same request until the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield request
