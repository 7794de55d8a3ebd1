"""One question to a deployed worker: its answer as it comes, how long it took, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from worker.protocol import Accepted, Batch, ReasoningDelta, TextDelta, Usage
from worker.settings import WorkerSettings

# Dollars, as Modal's pricing page had them in November 2026; a core is a physical one, two vCPUs.
CORE_SECOND, GIB_SECOND = 0.0000131, 0.00000222


@dataclass(slots=True)
class Timings:
    """Seconds from the call on. A worker that has to start accepts only when its model is loaded."""

    accepted: float = 0.0
    first_text: float = 0.0
    ended: float = 0.0
    num_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """After the first token, which waits for the prompt; 0 where there were too few to tell."""
        seconds = self.ended - self.first_text
        return (self.num_tokens - 1) / seconds if self.num_tokens > 1 and seconds > 0 else 0.0


def ask(batches: Iterable[Batch], write: Callable[[str], object]) -> Timings:
    """Write the answer as it comes. Raises WorkerError."""
    timings, started = Timings(), time.perf_counter()
    for batch in batches:
        if batch.error:
            raise batch.error
        for event in batch.events:
            match event:
                case Accepted():
                    timings.accepted = time.perf_counter() - started
                case TextDelta() | ReasoningDelta():
                    timings.first_text = timings.first_text or time.perf_counter() - started
                    write(event.text)
                case Usage():
                    timings.num_tokens = event.completion_tokens
    timings.ended = time.perf_counter() - started
    return timings


def report(timings: Timings, settings: WorkerSettings, factor: float, gpu: str | None) -> Iterator[str]:
    """`factor` is by how much the deployment's choices multiply the price."""
    yield f"accepted after {timings.accepted:.2f} s: the call, and the start of a worker where there was none"
    yield f"first text after {timings.first_text - timings.accepted:.2f} s more: the prompt"
    speed = timings.tokens_per_second
    yield f"{timings.num_tokens} tokens, {speed:.1f} a second after the first; all in {timings.ended:.2f} s"
    if speed and not gpu:
        dollars = million_tokens(settings, speed) * factor
        yield f"a million tokens so, one answer at a time: ${dollars:.2f} (prices of November 2026)"


def million_tokens(settings: WorkerSettings, tokens_per_second: float) -> float:
    """Dollars for what the worker reserves."""
    second = settings.cpu_cores * CORE_SECOND + settings.mem_mb / 1024 * GIB_SECOND
    return 1e6 / tokens_per_second * second
