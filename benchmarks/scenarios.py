"""What is put to the servers: load levels, a long prompt among running streams, and a soak."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, cycle, islice, pairwise
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.load import Recording, Reply, chat_request, closed_loop, decode, exchange
from benchmarks.machine import CpuMeter, memory
from benchmarks.peers import CACHE, LLAMA_SERVER, Peer, Server, Setup, running

QUESTIONS = Path(__file__).with_name("50-questions.jsonl")
MAX_TOKENS = 64
SYSTEM_PROMPT = (
    "You are the assistant of a cloud consultancy. Answer in the language of the question, in clear "
    "paragraphs, for an engineer who has to decide today. Name the trade-offs, give one concrete example, "
    "and say what you would measure before and after. Do not invent prices or product names."
)
# `openai` is what an OpenAI client gets by default; servers add defaults of their own to it (llama.cpp's
# two: top_k 40 and min_p 0.05), which makes their sampling cheaper. `full` switches those off.
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "openai": {"temperature": 1, "top_p": 1},
    "full": {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0},
}
TUNE_SLOTS = (1, 4, 8, 16, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Workload:
    """The stream of requests: no two are equal, and they differ right after the system prompt."""

    sampling: str = "greedy"
    max_tokens: int = MAX_TOKENS

    def requests(self, model: str, label: str = "Question") -> Iterator[bytes]:
        """Endless. The first 50 are the questions as written; later rounds put a number before them."""
        questions = [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()]
        for number in count():
            question = questions[number % len(questions)]
            numbered = number >= len(questions) or label != "Question"
            yield self.request(model, f"{label} {number}: {question}" if numbered else question)

    def request(self, model: str, text: str) -> bytes:
        return chat_request(
            {
                "model": model,
                "messages": [
                    {"role": "system", "content": SYSTEM_PROMPT},
                    {"role": "user", "content": text},
                ],
                "max_tokens": self.max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
                **SAMPLING[self.sampling],
            }
        )


def setup_for(peer: Peer, base: Setup, clients: int) -> Setup:
    """llama-server gets what `tune` found best for this load on this machine.

    Without such a run: a slot for each client up to 48, and a KV stream for each slot, which was the best of
    those tried at 16, 32 and 100 clients (LOG.md) and is an assumption at other loads.
    """
    if peer is not LLAMA_SERVER:
        return base
    tuned = CACHE / "tune.json"
    best = json.loads(tuned.read_text())["best"] if tuned.exists() else {}
    setting = best.get(str(clients), {"slots": min(clients, 48), "kv_unified": False})
    return replace(base, slots=setting["slots"], kv_unified=setting["kv_unified"])


async def warm_up(server: Server, workload: Workload, clients: int) -> None:
    """Let threads, caches and the system prompt's prefill happen before the clock runs."""
    short = replace(workload, max_tokens=16)
    requests = islice(short.requests(server.model_id, "Warm-up"), min(2 * clients, 64))
    for reply in map(decode, await closed_loop(server.port, requests, clients)):
        if reply.error:
            raise RuntimeError(f"warm-up failed: {reply.error}")


async def level(server: Server, workload: Workload, clients: int, num_requests: int) -> report.Summary:
    """`clients` in a closed loop until `num_requests` are answered."""
    await warm_up(server, workload, clients)
    requests = list(islice(workload.requests(server.model_id), num_requests))
    meter = CpuMeter(server.pid)
    recordings = await closed_loop(server.port, requests, clients)
    cpu = meter.read()
    return report.summarize([decode(recording) for recording in recordings], memory(server.pid, "VmHWM"), cpu)


def num_requests(clients: int, at_least: int) -> int:
    """Six for each client, so that the opening burst does not set the tone, or two where that takes long."""
    return max(at_least, min(6 * clients, max(200, 2 * clients)))


def run_level(
    peer: Peer, setup: Setup, workload: Workload, clients: int, num_requests: int
) -> report.Summary:
    """One level on a fresh server, so that memory and caches are this level's own."""
    with running(peer, setup) as server:
        return asyncio.run(level(server, workload, clients, num_requests))


Tried = tuple[Setup, report.Summary]


def tune(base: Setup, workload: Workload, clients: int, num_requests: int) -> Iterator[Tried]:
    """llama-server at every sensible number of slots, with both KV layouts."""
    for slots in TUNE_SLOTS:
        for kv_unified in (False, True):
            if slots <= max(clients, 1) and not (slots == 1 and kv_unified):
                setup = replace(base, slots=slots, kv_unified=kv_unified)
                yield setup, run_level(LLAMA_SERVER, setup, workload, clients, num_requests)


@dataclass(frozen=True, slots=True)
class LongPrompt:
    """Gaps in seconds between pieces of text in running streams: without, and during, a long prefill."""

    undisturbed: tuple[float, ...]
    disturbed: tuple[float, ...]
    worst_gap: float
    long_ttft: float
    errors: int


async def long_prompt(server: Server, workload: Workload, streams: int, prompt_tokens: int) -> LongPrompt:
    """Start `streams` long answers; when all of them flow, send one prompt of about `prompt_tokens`."""
    await warm_up(server, workload, streams)
    endless = replace(workload, max_tokens=8 * MAX_TOKENS)
    requests = list(islice(endless.requests(server.model_id), streams))
    running_streams = [asyncio.create_task(exchange(server.port, request)) for request in requests]
    await asyncio.sleep(3)  # the undisturbed stretch is measured in here, once every stream flows
    intruder = await exchange(server.port, workload.request(server.model_id, long_text(prompt_tokens)))
    replies = [decode(recording) for recording in await asyncio.gather(*running_streams)]
    return split_gaps(replies, decode(intruder))


def long_text(prompt_tokens: int) -> str:
    """The questions as one text; the default model needs 2.2 tokens for a word of this mixture."""
    words = " ".join(json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()).split()
    return " ".join(islice(cycle(words), int(prompt_tokens / 2.2)))


def split_gaps(streams: list[Reply], intruder: Reply) -> LongPrompt:
    """Disturbed gaps overlap the time from sending the long prompt to its first token."""
    errors = sum(reply.error is not None for reply in [*streams, intruder])
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
        undisturbed=report.percentiles(before),
        disturbed=report.percentiles(during),
        worst_gap=max(during, default=0.0),
        long_ttft=intruder.time_to_first_token,
        errors=errors,
    )


@dataclass(frozen=True, slots=True)
class Soak:
    summary: report.Summary
    curve: list[tuple[float, float]]  # seconds since the start, MiB


async def soak(server: Server, workload: Workload, clients: int, seconds: float) -> Soak:
    """`clients` in a closed loop for `seconds`; memory is sampled once a second all along."""
    await warm_up(server, workload, clients)
    start = time.monotonic()
    curve: list[tuple[float, float]] = []

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
    recordings: list[Recording] = await closed_loop(server.port, until_the_end(), clients)
    sampler.cancel()
    cpu = meter.read()
    replies = [decode(recording) for recording in recordings]
    return Soak(report.summarize(replies, memory(server.pid, "VmHWM"), cpu), curve)


def save(name: str, document: dict[str, Any]) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.json"
    path.write_text(report.last_line(document) + "\n")
    return path
