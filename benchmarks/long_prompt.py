"""How much one long prompt disturbs streams that are already running, and how long it waits itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from benchmarks.client import exchange
from benchmarks.loads import warm_up
from benchmarks.replies import Reply, decode
from benchmarks.running import Server
from benchmarks.summary import percentiles
from benchmarks.workload import Workload, asked, long_text

UNDISTURBED_SECONDS = 3


@dataclass(frozen=True, slots=True)
class LongPrompt:
    """Gaps in seconds between pieces of text in running streams: without, and during, a long prefill."""

    undisturbed: tuple[float, ...]
    disturbed: tuple[float, ...]
    worst_gap: float
    long_ttft: float
    errors: int


async def measure(server: Server, workload: Workload, streams: int, prompt_tokens: int) -> LongPrompt:
    """Start `streams` long answers; when all of them flow, send one prompt of about `prompt_tokens`."""
    await warm_up(server, workload, streams)
    long_answers = replace(workload, max_tokens=8 * workload.max_tokens)
    requests = islice(long_answers.requests(server.model_id), streams)
    running_streams = [asyncio.create_task(exchange(server.port, request)) for request in requests]
    await asyncio.sleep(UNDISTURBED_SECONDS)  # measured in here, once every stream flows
    intruder = await exchange(server.port, workload.request(server.model_id, asked(long_text(prompt_tokens))))
    replies = [decode(recording) for recording in await asyncio.gather(*running_streams)]
    return split_gaps(replies, decode(intruder))


def split_gaps(streams: Sequence[Reply], intruder: Reply) -> LongPrompt:
    """Disturbed gaps overlap the time from sending the long prompt to its first token."""
    if intruder.error:
        raise RuntimeError(f"the long prompt failed: {intruder.error}")
    start, end = intruder.sent, intruder.content_times[0]
    flowing = max(reply.content_times[0] for reply in streams if reply.content_times)
    before: list[float] = []
    during: list[float] = []
    for reply in streams:
        for earlier, later in pairwise(reply.content_times):
            if later > start and earlier < end:
                during.append(later - earlier)
            elif earlier >= flowing and later <= start:
                before.append(later - earlier)
    return LongPrompt(
        undisturbed=percentiles(before),
        disturbed=percentiles(during),
        worst_gap=max(during, default=0.0),
        long_ttft=intruder.time_to_first_token,
        errors=sum(reply.error is not None for reply in streams),
    )
