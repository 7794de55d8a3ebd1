"""One completion on its way: its tokens, where they stand, and the way to whoever waits for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from worker.engine.detokenizer import Detokenizer
from worker.engine.prefix_index import PUBLIC
from worker.engine.prompt_lookup import PromptLookup
from worker.engine.sampling import Sampler
from worker.protocol import FinishReason, TokenLogprob, WorkerError


@dataclass(slots=True)
class Output:
    """What a sequence has gained since the last one; the last has `finish_reason` or `error`.

    `stop` is the stop string that ended it, if one did.
    """

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: WorkerError | None = None
    stop: str | None = None

    def merge(self, newer: Output) -> None:
        self.text += newer.text
        self.logprobs += newer.logprobs
        self.finish_reason, self.error, self.stop = newer.finish_reason, newer.error, newer.stop


Waiter = asyncio.Future[None] | threading.Event


class Channel:
    """From the engine's thread to one consumer; what a slow one has not fetched is merged, not queued."""

    __slots__ = ("_closed", "_lock", "_output", "_waiter")

    def __init__(self) -> None:
        # Reentrant: while `put` allocates, the collector may drop the consumer, whose __del__ closes.
        self._lock = threading.RLock()
        self._output: Output | None = None
        self._waiter: Waiter | None = None
        self._closed = False

    def put(self, output: Output, last: bool = False) -> Waiter | None:
        """Leave an output; returns the waiter to wake, if there is one."""
        with self._lock:
            if self._closed:
                return None
            self._closed = last
            if self._output is None:
                self._output = output
            else:
                self._output.merge(output)
            waiter, self._waiter = self._waiter, None
            return waiter

    def close(self) -> Waiter | None:
        """Drop what was not fetched and take nothing more; for a consumer that has gone."""
        with self._lock:
            self._closed, self._output = True, None
            waiter, self._waiter = self._waiter, None
            return waiter

    def take(self, new_waiter: Callable[[], Waiter]) -> Output | Waiter | None:
        """The output that is there; or a waiter to wait on; or None when nothing more will come."""
        with self._lock:
            if self._output is not None:
                output, self._output = self._output, None
                return output
            if self._closed:
                return None
            self._waiter = new_waiter()
            return self._waiter


class State(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


# Prompt tokens in a step that want logits, each of which takes memory for the whole vocabulary.
MAX_SCORED = 64


class Donor(Protocol):
    """Another sequence, or a file: what a sequence waits for, to have its prefix."""

    @property
    def is_pending(self) -> bool:
        """Whether waiting still helps."""
        ...


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` are the prompt and what was sampled; the first `num_computed` of them are in the KV cache.

    Prefill and decode are the same thing: compute the tokens that are not computed yet, and sample when
    none is left. Only the engine's thread changes it.
    """

    tokens: list[int]
    sampler: Sampler
    detokenizer: Detokenizer
    max_tokens: int
    channel: Channel = field(default_factory=Channel)
    num_prompt: int = 0
    num_computed: int = 0
    num_cached: int = 0
    begun: bool = False  # it has had a slot
    state: State = State.WAITING
    slot: int = -1
    stopping: Callable[[list[int]], bool] | None = None  # a caller's own criterion, over all tokens
    lookup: PromptLookup = field(default_factory=PromptLookup)
    donor: Donor | None = None  # what will bring the prefix this one needs
    # Slots are shared fairly between clients, prefixes within one only. No secret, since files name it.
    client: str = PUBLIC
    scores_prompt: bool = False  # the log probabilities of its prompt's tokens are wanted
    was_scored: bool = False
    prompt_scores: list[TokenLogprob] = field(default_factory=list)  # of what is computed, until all is
    snapshots: list[int] = field(default_factory=list)  # lengths of the prompt at which to save the state
    file_length: int = 0  # the one of them whose state is to be a file
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0  # when it first had a slot, its first token, its last; 0 until then
    first_token: float = 0.0
    ended: float = 0.0

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def num_due(self) -> int:
        """Uncomputed tokens up to the next place to stop at."""
        due = (self.snapshots[0] if self.snapshots else len(self.tokens)) - self.num_computed
        return min(due, MAX_SCORED) if self.is_scored else due

    @property
    def is_prefill(self) -> bool:
        return self.num_computed < self.num_prompt

    @property
    def is_pending(self) -> bool:
        """As a donor: whether it is still computing the prompt that it shares."""
        return self.state is State.RUNNING and self.is_prefill

    @property
    def is_scored(self) -> bool:
        """Whether all that is computed now wants logits, so that nothing of it may come from a cache."""
        return self.scores_prompt and not self.was_scored
