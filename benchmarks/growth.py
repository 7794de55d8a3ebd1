"""How cost grows: with users, the length of prompts, slots, the model's size, and workers on Modal.

One thing varies at a time; each curve says what it is measured at. Each point is one run on a fresh server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import random_model
from benchmarks.compare import run_once
from benchmarks.loads import Questions, num_requests
from benchmarks.modal_events import first_text, on_workers
from benchmarks.peer import Setup
from benchmarks.peers import OURS
from benchmarks.summary import Summary
from benchmarks.workload import Workload
from compat_tests.deployment import deployed

USERS = (1, 2, 4, 8, 16, 32, 64, 100, 200)
PROMPTS = (50, 200, 500, 1000, 2000, 4000)  # tokens
SLOTS = (1, 2, 4, 8, 16, 32, 64)
WORKERS = (1, 2, 3)
CONTEXT = 1024
WORKLOAD = Workload()


@dataclass(frozen=True, slots=True)
class Curve:
    """What varies, and everything else about it."""

    x: str
    at: str
    points: Sequence[tuple[float, Summary]]


def measure(model: Path, threads: int) -> Iterator[tuple[str, Curve]]:
    """Each curve by its name, as soon as it is there."""
    setup = Setup(model, threads, CONTEXT)
    yield "users", Curve("users", "64 output tokens, short prompts, default slots", [*_users(setup)])
    yield "prompt", Curve("prompt tokens", "4 users, 64 output tokens, nothing cached", [*_prompts(setup)])
    yield "slots", Curve("slots", "64 users, 64 output tokens", [*_slots(setup)])
    yield "model", Curve("model, GiB", "8 users, 64 output tokens, Q4_0", [*_models(setup)])
    yield (
        "workers",
        Curve("worker containers", "24 users, 8 slots and one thread a container", [*_workers(model)]),
    )


def _users(setup: Setup) -> Iterator[tuple[float, Summary]]:
    for users in USERS:
        yield users, run_once(OURS, setup, Questions(users, num_requests(users, 24), WORKLOAD))


def _prompts(setup: Setup) -> Iterator[tuple[float, Summary]]:
    for tokens in PROMPTS:
        load = Questions(4, 12, WORKLOAD, tokens)
        yield tokens, run_once(OURS, replace(setup, context=tokens + CONTEXT, slots=4), load)


def _slots(setup: Setup) -> Iterator[tuple[float, Summary]]:
    for slots in SLOTS:
        load = Questions(64, 128 if slots > 2 else 64, WORKLOAD)
        yield slots, run_once(OURS, replace(setup, slots=slots), load)


def _models(setup: Setup) -> Iterator[tuple[float, Summary]]:
    others = [random_model.write(shape, setup.model) for shape in random_model.SHAPES]
    for model in (setup.model, *others):
        load = Questions(8, 16, replace(WORKLOAD, max_tokens=32))
        size = model.stat().st_size / (1 << 30)
        yield size, run_once(OURS, replace(setup, model=model, slots=8), load)


def _workers(model: Path) -> Iterator[tuple[float, Summary]]:
    for workers in WORKERS:
        settings = {"LLM_CTX": str(CONTEXT), "LLM_SLOTS": "8", "MAX_CONTAINERS": str(workers)}
        with deployed(model, **settings) as deployment:
            first_text(deployment)
            on_workers(deployment, 24, 48)  # until all of them run
            summary, running = on_workers(deployment, 24, 96)
        if running != workers:
            raise RuntimeError(f"{running} workers were running, and {workers} were to be measured")
        yield workers, summary
