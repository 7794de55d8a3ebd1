"""Peers under the same loads: in turn within each repeat, each time on a fresh server; medians over repeats.

In turn, so that drift of the machine hits all alike; fresh, so that memory and caches are the run's own.
Every run is written to a file as soon as it ends; an interrupted comparison reports the runs that it has.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from benchmarks import CACHE, ceiling, tables, tuning
from benchmarks.loads import Load
from benchmarks.machine import CpuMeter, hardware, memory
from benchmarks.peer import Peer, Setup
from benchmarks.results import RunFile, finish
from benchmarks.running import Server, running
from benchmarks.summary import Summary, median, summarize

STOCK_CLIENTS = 16  # above which stock takes many minutes and shows nothing new: it answers one at a time


async def measure(server: Server, load: Load) -> Summary:
    await load.warm_up(server)
    meter = CpuMeter(server.pid)
    replies = await load.run(server)
    return summarize(replies, memory(server.pid, "VmHWM"), meter.read())


def run_once(peer: Peer, setup: Setup, load: Load) -> Summary:
    with running(peer, setup) as server:
        return asyncio.run(measure(server, load))


@dataclass
class Comparison:
    """What has been measured so far. All peers are installed when it is made."""

    name: str
    title: str
    setup: Setup
    peers: Sequence[Peer]
    runs: dict[tuple[Load, str], list[Summary]] = field(default_factory=lambda: defaultdict(list))
    bare: dict[Load, list[float]] = field(default_factory=lambda: defaultdict(list))

    settings: dict[tuple[Load, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = RunFile(self.name)
        self.instruction_sets = {peer.name: peer.instruction_sets() for peer in self.peers}

    def measure(self, loads: Sequence[Load], repeats: int, with_ceiling: bool = False) -> None:
        for repeat in range(repeats):
            for load, peer in ((load, peer) for load in loads for peer in self.peers):
                if peer.name == "stock" and (repeat > 0 or load.clients > STOCK_CLIENTS):
                    continue
                setup = tuning.setup_for(peer, self.setup, load)
                self.add(load, peer.name, run_once(peer, setup, load), setup)
                if with_ceiling and peer.name == "ours":
                    self.add_ceiling(load)

    def add(self, load: Load, peer: str, summary: Summary, setup: Setup) -> None:
        self.runs[load, peer].append(summary)
        self.settings[load, peer] = setup.label
        print(tables.row(load.name, peer, summary), flush=True)
        self.file.add(load=load.name, peer=peer, setup=setup.label, **dataclasses.asdict(summary))

    def add_ceiling(self, load: Load) -> None:
        """The bare loop over the work of ours' last run."""
        work = ceiling.work_of(self.runs[load, "ours"][-1], load.clients, self.setup.slots)
        speed = ceiling.measure(self.setup.model, work, self.setup.threads)
        self.bare[load].append(speed)
        print(tables.bare_row(load.name, speed), flush=True)
        self.file.add(load=load.name, peer="bare loop", tokens_per_s=speed)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """However it ends, what has been measured is reported."""
        print(f"{self.heading()}\n{tables.HEADER}", flush=True)
        try:
            yield
        finally:
            finish(self.name, self.document())

    def heading(self) -> str:
        """The machine, and each side's instruction sets: without them no figure means anything."""
        sides = [f"{peer.name}: {peer.origin}; {self.instruction_sets[peer.name]}" for peer in self.peers]
        return "\n".join([f"{self.title}; {hardware()}", *sides])

    def document(self) -> dict[str, Any]:
        """Prints the medians so far; returns them as plain data."""
        results: tables.Results = {}
        for (load, peer), summaries in self.runs.items():
            results.setdefault(load, {})[peer] = median(summaries)
        ceilings = {load: statistics.median(speeds) for load, speeds in self.bare.items()}
        print(f"\nmedians; {self.heading()}\n{tables.table(results, ceilings)}")
        plot = tables.plot_levels(results, CACHE / f"{self.name}.png", self.title)
        return {
            "hardware": hardware(),
            "instruction_sets": self.instruction_sets,
            "settings": {f"{load.name}: {peer}": label for (load, peer), label in self.settings.items()},
            "loads": tables.as_json(results, ceilings),
            "plot": plot and str(plot),
        }


def tune(peers: Sequence[Peer], loads: Sequence[Load], base: Setup) -> None:
    """One run of every candidate; the one with the most tokens per second is kept for later comparisons."""
    print(tables.HEADER, flush=True)
    for peer, load in ((peer, load) for peer in peers for load in loads):
        tried: list[tuple[float, Setup]] = []
        for setup in tuning.candidates(base, load):
            summary = run_once(peer, setup, load)
            tried.append((summary.tokens_per_s, setup))
            print(f"{tables.row(load.name, peer.name, summary)} {setup.label}", flush=True)
        tuning.keep(peer, base, load, max(tried, key=itemgetter(0))[1])
