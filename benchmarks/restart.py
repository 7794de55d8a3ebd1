"""A new process meets a prompt that its predecessor has seen: what is a file of prefixes worth?

The first server is asked several questions under one long system prompt, and ends as a server does (SIGTERM).
The next one, warmed up with other work, is asked one more question under the same prompt (`known`), and one
under another of the same length (`computed`). Between the two times to the first token lies what was kept.
A server that keeps nothing computes both.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from benchmarks.client import exchange
from benchmarks.loads import warm_up
from benchmarks.peer import Peer, Setup
from benchmarks.replies import Reply, decode
from benchmarks.running import Server, running
from benchmarks.workload import Workload, asked, endless_questions, long_text

TIMES_SEEN = 4  # requests with the prompt before the restart: more than any store waits for
WORKLOAD = Workload(max_tokens=16)


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds to the first token, of prompts of `prompt_tokens`; `cached_tokens` of the known one's."""

    known: float
    computed: float
    prompt_tokens: float
    cached_tokens: float
    stored_mib: float

    @property
    def ratio(self) -> float:
        return self.known / self.computed


def measure(peer: Peer, setup: Setup, prompt_tokens: int, repeats: int) -> Restart:
    """Medians over restarts; each has a folder of its own."""
    runs = [_once(peer, setup, prompt_tokens) for _ in range(repeats)]
    columns = {name: [getattr(run, name) for run in runs] for name in Restart.__slots__}
    return Restart(**{name: statistics.median(column) for name, column in columns.items()})


def _once(peer: Peer, setup: Setup, prompt_tokens: int) -> Restart:
    known, other = f"Known. {long_text(prompt_tokens)}", f"Other. {long_text(prompt_tokens)}"
    with tempfile.TemporaryDirectory() as folder:
        setup = replace(setup, cache_dir=Path(folder))
        with running(peer, setup) as server:
            asyncio.run(_ask(server, [known] * TIMES_SEEN))
        with running(peer, setup) as server:
            asyncio.run(warm_up(server, WORKLOAD, 1))
            again, computed = asyncio.run(_ask(server, [known, other]))
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return Restart(
        again.time_to_first_token,
        computed.time_to_first_token,
        again.prompt_tokens,
        again.cached_tokens,
        stored / (1 << 20),
    )


async def _ask(server: Server, systems: Iterable[str]) -> list[Reply]:
    """One question after the other, each under its system prompt."""
    replies = []
    for system, question in zip(systems, islice(endless_questions(), TIMES_SEEN), strict=False):
        request = WORKLOAD.request(server.model_id, asked(question, system))
        replies.append(reply := decode(await exchange(server.port, request)))
        if reply.error:
            raise RuntimeError(f"a request failed: {reply.error}")
    return replies
