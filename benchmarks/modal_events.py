"""Between containers, timed: cold start, a client that leaves, a lost worker, 100 clients on two workers.

In the local Modal control plane, on loopback, with all containers on this machine's cores.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from benchmarks.client import closed_loop
from benchmarks.machine import CpuMeter, memory
from benchmarks.replies import decode
from benchmarks.summary import Summary, summarize
from benchmarks.workload import Workload
from compat_tests.deployment import WORKER, Deployment, deployed
from compat_tests.modal_emulator.emulator import ContainerInfo
from compat_tests.server import NEVER_ENDS

MODEL = "model_q4_0"
REPEATS = 9


@dataclass(frozen=True, slots=True)
class ModalEvents:
    """Seconds; medians over REPEATS, but for the cold start and the recovery, which happen once."""

    cold_start: float  # from a request, with no worker there, to its first text
    first_text: float  # the same with a worker that is warm and idle
    cancel: float  # from the client's disconnect to a worker without that input
    lost: float  # from kill -9 to the error event in the stream
    recover: float  # from kill -9 to the first text of a request sent right after the error
    load: Summary
    load_workers: int


def measure(model: Path, clients: int, num_requests: int) -> ModalEvents:
    settings = {"LLM_CTX": "1024", "LLM_SLOTS": str(clients // 2), "MAX_CONTAINERS": "2"}
    with deployed(model, **settings) as deployment:
        httpx.get(f"{deployment.server.url}/health", timeout=60).raise_for_status()
        cold_start = first_text(deployment)
        warm = statistics.median(first_text(deployment) for _ in range(REPEATS))
        cancel = statistics.median(time_to_cancel(deployment) for _ in range(REPEATS))
        lost, recover = lose_worker(deployment)
        load, workers = on_workers(deployment, clients, num_requests)
    return ModalEvents(cold_start, warm, cancel, lost, recover, load, workers)


@contextmanager
def story(deployment: Deployment) -> Iterator[Iterator[str]]:
    """A stream that would go on for a minute; yields its lines after the first with text."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a very long story."}],
        "logit_bias": NEVER_ENDS,
        "stream": True,
    }
    url = f"{deployment.server.base_url}/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120) as response:
        lines = response.raise_for_status().iter_lines()
        next(line for line in lines if _has_text(line))
        yield lines


def _has_text(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(line[6:]).get("choices", ()))


def first_text(deployment: Deployment) -> float:
    started = time.perf_counter()
    with story(deployment):
        seconds = time.perf_counter() - started
    _wait(deployment, 0)
    return seconds


def time_to_cancel(deployment: Deployment) -> float:
    with story(deployment):
        _wait(deployment, 1)
        started = time.perf_counter()
    _wait(deployment, 0)
    return time.perf_counter() - started


def lose_worker(deployment: Deployment) -> tuple[float, float]:
    with story(deployment) as lines:
        started = time.perf_counter()
        for worker in deployment.workers():
            deployment.emulator.kill(worker.task_id)
        if not any(line.startswith('data: {"error"') for line in lines):
            raise RuntimeError("the stream of a lost worker ended without an error")
        lost = time.perf_counter() - started
    first_text(deployment)
    return lost, time.perf_counter() - started


def on_workers(deployment: Deployment, clients: int, num_requests: int) -> tuple[Summary, int]:
    """A closed loop that may need every slot of all workers; more of them start as the load arrives."""
    requests = list(islice(Workload().requests(MODEL), num_requests))
    port = httpx.URL(deployment.server.url).port
    assert port is not None
    meter = CpuMeter(deployment.workers()[0].pid)
    recordings = asyncio.run(closed_loop(port, requests, clients))
    workers = deployment.workers()
    peak = sum(memory(worker.pid, "VmHWM") for worker in workers)
    return summarize([decode(recording) for recording in recordings], peak, meter.read()), len(workers)


def _wait(deployment: Deployment, num_inputs: int) -> None:
    def reached(workers: list[ContainerInfo]) -> bool:
        return sum(worker.num_inputs for worker in workers) == num_inputs

    deployment.emulator.wait_for(reached, WORKER, timeout=60)
