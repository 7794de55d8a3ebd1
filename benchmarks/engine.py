"""The engine without HTTP: the same questions, by threads that call `create_chat_completion` in this process.

Beside the same load over HTTP it shows what gateway and sockets cost; beside the bare loop, what the engine
does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from benchmarks.loads import Questions
from benchmarks.machine import CpuMeter, memory
from benchmarks.peer import Setup
from benchmarks.replies import Reply
from benchmarks.summary import Summary, summarize
from benchmarks.workload import SAMPLING, Workload, asked, endless_questions
from worker.llama.batched import BatchedLlama


@contextmanager
def opened(setup: Setup) -> Iterator[Callable[[Questions], Summary]]:
    """The model, loaded; what is yielded measures one load."""
    slots, context = setup.slots, setup.context
    llama = BatchedLlama(str(setup.model), n_ctx=context, num_slots=slots, n_threads=setup.threads)
    try:
        yield lambda load: _measure(llama, load)
        llama.check_integrity()
    finally:
        llama.close()


def _measure(llama: BatchedLlama, load: Questions) -> Summary:
    """Token counts are the engine's own."""
    with ThreadPoolExecutor(load.clients) as threads:

        def answers(label: str, number: int) -> list[Reply]:
            questions = islice(endless_questions(label), number)
            return list(threads.map(lambda question: _answer(llama, question, load.workload), questions))

        answers("Warm-up", 2 * load.clients)
        meter, before = CpuMeter(os.getpid()), llama.stats()
        replies = answers("Question", load.num_requests)
        cpu, after = meter.read(), llama.stats()
    summary = summarize(replies, memory(os.getpid(), "VmHWM"), cpu)
    computed = after.num_prompt_tokens_total - before.num_prompt_tokens_total
    cached = after.num_cached_tokens_total - before.num_cached_tokens_total
    tokens = after.num_output_tokens_total - before.num_output_tokens_total
    return replace(
        summary,
        prompt=((computed + cached) / len(replies), cached / len(replies)),
        tokens=tokens,
        tokens_per_s=summary.tokens_per_s * tokens / summary.tokens,
        tokens_per_request=tokens / len(replies),
    )


def _answer(llama: BatchedLlama, question: str, workload: Workload) -> Reply:
    """A piece of text may be several tokens: the reply's own count may be too low."""
    sent = time.perf_counter()
    times = []
    messages: Any = asked(question)
    options = {"max_tokens": workload.max_tokens, **SAMPLING[workload.sampling]}
    chunks: Any = llama.create_chat_completion(messages, stream=True, **options)
    for chunk in chunks:
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            times.append(time.perf_counter())
    return Reply(sent, time.perf_counter(), tuple(times), len(times), None)
