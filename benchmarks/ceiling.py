"""The ceiling: a bare loop of llama_decode over the same number of tokens, with nothing of a server around.

No sampling, no text, no HTTP, and nobody joins or leaves: all sequences read their prompts together and then
decode together. A server that did nothing else but compute the tokens it was asked for would be as fast.

Prints the output tokens per second:

    python -m benchmarks.ceiling model.gguf --sequences 32 --cached 60 --prompt 46 --output 64

A process of its own, so that it starts as the servers do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from benchmarks.summary import Summary

MAX_BATCH = 256  # prompt tokens a step, as the servers are given


@dataclass(frozen=True, slots=True)
class Work:
    """What every sequence does, in tokens: `cached` are there before the clock runs."""

    sequences: int
    cached: int
    prompt: int
    output: int


def work_of(run: Summary, clients: int, slots: int | None = None) -> Work:
    """What the bare loop has to do to match a run of ours; `slots` are its own choice unless given."""
    from worker.llama.memory import MAX_SLOTS

    prompt, cached = map(round, run.prompt)
    sequences = min(clients, slots or MAX_SLOTS)
    return Work(sequences, cached, prompt - cached, round(run.tokens_per_request))


def bare_loop(model: Any, work: Work, threads: int) -> float:
    """Output tokens per second of a loaded `llama_cpp` model."""
    from worker.llama.context import LlamaRunner

    runner = LlamaRunner(
        model,
        num_slots=work.sequences,
        context_length=-(-(work.cached + work.prompt + work.output) // 256) * 256,  # llama.cpp's granularity
        n_batch=MAX_BATCH,
        n_threads=threads,
    )
    try:
        slots = range(work.sequences)
        _compute(runner, slots, 0, work.cached)
        seconds = 0.0
        for _round in range(2):  # the first is the warm-up: it touches the memory
            for slot in slots:
                runner.truncate(slot, work.cached)
            started = time.perf_counter()
            _compute(runner, slots, work.cached, work.prompt)
            for step in range(work.output):
                _compute(runner, slots, work.cached + work.prompt + step, 1, logits=1)
            seconds = time.perf_counter() - started
        return work.sequences * work.output / seconds
    finally:
        runner.close()


def _compute(runner: Any, slots: Sequence[int], position: int, length: int, logits: int = 0) -> None:
    """`length` tokens of every slot, in as few and as even steps as the batch allows."""
    from worker.engine.runner import Chunk

    at_once = max(1, MAX_BATCH // max(1, length))
    for first in range(0, len(slots), at_once):
        some = slots[first : first + at_once]
        for start in range(0, length, MAX_BATCH):
            size = min(MAX_BATCH, length - start)
            chunks = [
                Chunk(slot, position + start, range(1000 + slot, 1000 + slot + size), logits) for slot in some
            ]
            runner.decode(chunks)


def measure(model: Path, work: Work, threads: int) -> float:
    """`bare_loop` in a fresh process."""
    options = [text for name, value in asdict(work).items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.ceiling", str(model), "--threads", str(threads), *options]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(
    model: Path, sequences: int = 32, cached: int = 60, prompt: int = 46, output: int = 64, threads: int = 2
) -> None:
    """Print the output tokens per second of a bare loop."""
    from worker.llama.batched import BatchedLlama

    llama = BatchedLlama(str(model), n_ctx=256, num_slots=1, n_threads=threads)
    work = Work(sequences, cached, prompt, output)
    print(bare_loop(llama._model, work, threads))
    llama.close()


if __name__ == "__main__":
    typer.run(main)
