"""Steady load for minutes: errors, and memory over time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.client import closed_loop
from benchmarks.loads import warm_up
from benchmarks.machine import CpuMeter, memory
from benchmarks.replies import decode
from benchmarks.running import Server
from benchmarks.summary import Summary, summarize
from benchmarks.workload import Workload

Curve = list[tuple[float, float]]  # seconds since the start, MiB


@dataclass(frozen=True, slots=True)
class Soak:
    summary: Summary
    curve: Curve


async def measure(server: Server, workload: Workload, clients: int, seconds: float) -> Soak:
    """`clients` in a closed loop for `seconds`; memory is sampled once a second all along."""
    await warm_up(server, workload, clients)
    start = time.monotonic()
    curve: Curve = []

    async def sample() -> None:
        while True:
            curve.append((time.monotonic() - start, memory(server.pid)))
            await asyncio.sleep(1)

    def until_the_end() -> Iterator[bytes]:
        for request in workload.requests(server.model_id):
            if time.monotonic() - start > seconds:
                return
            yield request

    meter = CpuMeter(server.pid)
    sampler = asyncio.create_task(sample())
    recordings = await closed_loop(server.port, until_the_end(), clients)
    sampler.cancel()
    replies = [decode(recording) for recording in recordings]
    return Soak(summarize(replies, memory(server.pid, "VmHWM"), meter.read()), curve)
