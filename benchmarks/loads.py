"""What a comparison puts the servers under: a kind and size of work. Here: single questions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from benchmarks.client import closed_loop
from benchmarks.replies import Reply, decode
from benchmarks.running import Server
from benchmarks.workload import Workload, long_text


class Load(Protocol):
    """`name` is a row's label, and what a tuned setting is kept under; `clients` are there at a time."""

    @property
    def name(self) -> str: ...
    @property
    def clients(self) -> int: ...

    async def warm_up(self, server: Server) -> None: ...
    async def run(self, server: Server) -> list[Reply]: ...


async def warm_up(server: Server, workload: Workload, clients: int) -> None:
    """Let threads, caches and the system prompt's prefill happen before the clock runs."""
    short = replace(workload, max_tokens=16)
    requests = islice(short.requests(server.model_id, "Warm-up"), min(2 * clients, 64))
    for reply in map(decode, await closed_loop(server.port, requests, clients)):
        if reply.error:
            raise RuntimeError(f"warm-up failed: {reply.error}")


@dataclass(frozen=True, slots=True)
class Questions:
    """A closed loop: each client asks a new question as soon as its last is answered.

    `prompt_tokens`: about as much text follows each question, and nothing of it is cached.
    """

    clients: int
    num_requests: int
    workload: Workload
    prompt_tokens: int = 0

    @property
    def name(self) -> str:
        return f"{self.clients} clients{f', prompt +{self.prompt_tokens}' if self.prompt_tokens else ''}"

    async def warm_up(self, server: Server) -> None:
        await warm_up(server, self.workload, self.clients)

    async def run(self, server: Server) -> list[Reply]:
        asked = self.workload.requests(server.model_id, more=long_text(self.prompt_tokens))
        requests = list(islice(asked, self.num_requests))
        return [decode(recording) for recording in await closed_loop(server.port, requests, self.clients)]


def num_requests(clients: int, at_least: int) -> int:
    """Six for each client, so that the opening burst does not set the tone, or two where that takes long."""
    return max(at_least, min(6 * clients, max(200, 2 * clients)))
