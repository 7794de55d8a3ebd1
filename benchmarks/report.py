"""All that `make report` measures, in one document: what docs/report is written from.

The parts, in order: two load tests (100 users with Locust, 50 questions one a second), single questions
beside other servers, what the gateway itself costs, and how cost grows. Each part is kept as soon as it is
measured; `--only` measures some again beside those of the same commit, machine and sizes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import httpx

from benchmarks import CACHE, ROOT, gateway_cost, growth, load_test, questions, tuning
from benchmarks.client import KEY
from benchmarks.compare import Comparison
from benchmarks.loads import Questions, num_requests
from benchmarks.machine import hardware
from benchmarks.peer import Peer, Setup
from benchmarks.peers import LLAMA_SERVER, OURS, STOCK
from benchmarks.results import RunFile
from benchmarks.running import running
from benchmarks.tables import rounded
from benchmarks.workload import Workload, endless_questions

DOCUMENT = CACHE / "report.json"
SERVERS = (OURS, LLAMA_SERVER, STOCK)
CONTEXT = 1024
ANSWER = 128  # tokens of an answer in the mission's tests
LEVELS = (1, 16, 32, 100)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it: Locust's users, how many more come each second, and for how long."""

    users: int = 100
    ramp: float = 2.0
    seconds: float = 120.0
    repeats: int = 1
    gateway_seconds: float = 10.0


Part = Callable[[Setup, Size], Any]


def measure(setup: Setup, size: Size, only: list[str]) -> dict[str, Any]:
    """Runs the parts (all of them, unless `only` names some), and returns the whole document.

    Raises ValueError where the parts that are there were measured otherwise.
    """
    made = about(setup, size)
    document: dict[str, Any] = json.loads(DOCUMENT.read_text()) if DOCUMENT.exists() and only else {}
    differ = [key for key, value in document.get("made", made).items() if value != made[key]]
    if differ:
        raise ValueError(f"{DOCUMENT} was measured with another {', '.join(differ)}: measure all parts again")
    document |= {"made": made}
    for name in only or PARTS:
        print(f"== {name}", flush=True)
        document[name] = {"at": time.strftime("%F %H:%M"), "results": PARTS[name](setup, size)}
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(json.dumps(rounded(document), indent=1, ensure_ascii=False) + "\n")
    document = json.loads(DOCUMENT.read_text())
    return document


def about(setup: Setup, size: Size) -> dict[str, Any]:
    """Without which no figure means anything."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "commit": commit,
        "hardware": hardware(),
        "builds": {peer.name: f"{peer.origin}; {peer.instruction_sets()}" for peer in SERVERS},
        "model": setup.model.name,
        "threads": setup.threads,
        "context": CONTEXT,
        "answer_tokens": ANSWER,
        **dataclasses.asdict(size),
    }


def load_tests(setup: Setup, size: Size) -> dict[str, dict[str, Any]]:
    """By kind of user and server."""
    kinds = {
        "one message": {OURS: "GenerateUser", LLAMA_SERVER: "MessageUser", STOCK: "MessageUser"},
        "streamed questions": dict.fromkeys(SERVERS, "ChatUser"),
        "conversations": dict.fromkeys((OURS, LLAMA_SERVER), "ConversationUser"),
    }
    return {
        kind: {peer.name: _load_test(peer, setup, size, user) for peer, user in users.items()}
        for kind, users in kinds.items()
    }


def _load_test(peer: Peer, setup: Setup, size: Size, user: str) -> dict[str, Any]:
    setup = replace(setup, context=2 * CONTEXT, generate_tokens=ANSWER)
    load = Questions(size.users, size.users, Workload())
    with running(peer, tuning.setup_for(peer, setup, load)) as server:
        test = load_test.run(server, user, size.users, size.ramp, size.seconds, ANSWER)
    print(
        f"{user} {peer.name}: {test.requests} requests, {test.failures} failed, {test.requests_per_s:.2f}/s,"
        f" p50 {test.p50:.1f} s, p95 {test.p95:.1f} s, first text {test.first_text}",
        flush=True,
    )
    return dataclasses.asdict(test)


def fifty_questions(setup: Setup, size: Size) -> dict[str, Any]:
    """Streamed, one a second, each mode on a fresh server; by server and mode."""
    return {
        peer.name: {mode: asyncio.run(_asked(peer, setup, mode)) for mode in questions.Mode}
        for peer in (OURS, LLAMA_SERVER)
    }


async def _asked(peer: Peer, setup: Setup, mode: questions.Mode) -> dict[str, Any]:
    load = Questions(16, 16, Workload())
    with running(peer, tuning.setup_for(peer, setup, load)) as server:
        url, headers = f"http://127.0.0.1:{server.port}", {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=questions.TIMEOUT) as client:
            ask = await questions.asker(client, questions.Route.chat, server.model_id, ANSWER)
            asked = list(islice(endless_questions(), 50))
            seen = [result async for result in questions.run(ask, asked, mode)]
    summary = questions.summary(seen)
    print(f"{peer.name} {mode}: {summary}", flush=True)
    return summary


def levels(setup: Setup, size: Size) -> dict[str, Any]:
    """Single questions in a closed loop, with the bare loop as the ceiling."""
    name = "report-levels"
    comparison = Comparison(name, "single questions", setup, SERVERS)
    loads = [Questions(clients, num_requests(clients, 50), Workload()) for clients in LEVELS]
    with comparison.reporting():
        comparison.measure(loads, size.repeats, with_ceiling=True)
    document: dict[str, Any] = json.loads((CACHE / f"{name}.json").read_text())
    return document


def own_cost(setup: Setup, size: Size) -> dict[str, Any]:
    """In a process of its own, whose core the client is held to."""
    with ProcessPoolExecutor(1) as process:
        costs = process.submit(gateway_cost.measure, size.gateway_seconds).result()
    return {name: dataclasses.asdict(cost) for name, cost in costs.items()}


def growing(setup: Setup, size: Size) -> dict[str, Any]:
    return dict(_kept(growth.measure(setup.model, setup.threads)))


def _kept(curves: Iterator[tuple[str, growth.Curve]]) -> Iterator[tuple[str, dict[str, Any]]]:
    file = RunFile("growth")
    for name, curve in curves:
        for x, summary in curve.points:
            print(
                f"{name} {x:g}: {summary.tokens_per_s:.1f} tokens/s, first token {summary.ttft}", flush=True
            )
        plain = dataclasses.asdict(curve)
        file.add(curve=name, **plain)
        yield name, plain


PARTS: dict[str, Part] = {
    "load": load_tests,
    "questions": fifty_questions,
    "levels": levels,
    "gateway": own_cost,
    "growth": growing,
}
