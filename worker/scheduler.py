"""Which tokens the next step computes: every running sequence's next one, and prompts in chunks.

Knows sequences and slots, never logits. First come, first served.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from worker.kv_cache import KVCache
from worker.sequence import Sequence, State

# While others decode, a step's share for prompts is such that the step takes up to about 2.5 times as long as
# it would without: a step of n decodes costs about as much as computing 4 + 2n prompt tokens.
MIN_PREFILL_SHARE = 8
PREFILL_SHARE_PER_DECODE = 3


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next `num_tokens` uncomputed tokens of a sequence; `samples` when none is left after them."""

    sequence: Sequence
    num_tokens: int
    samples: bool


class Scheduler:
    """`waiting` until a slot is free, then `running` in the order of admission."""

    def __init__(self, kv_cache: KVCache, max_batch: int) -> None:
        self.kv_cache = kv_cache
        self.max_batch = max_batch
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Scheduled]:
        """Admit who fits, then spend the step's token budget: decodes first, then prompts in order."""
        self._admit()
        self._fill_from_donors()
        self.kv_cache.close_gap()
        decoding = [s for s in self.running if not s.is_prefill]
        scheduled = [Scheduled(s, s.num_uncomputed, True) for s in decoding]
        budget = self.max_batch - len(scheduled)
        if decoding:
            budget = min(budget, MIN_PREFILL_SHARE + PREFILL_SHARE_PER_DECODE * len(decoding))
        for sequence in self.running:
            if budget <= 0:
                break
            if sequence.is_prefill and sequence.donor is None:
                num_tokens = min(budget, sequence.num_uncomputed)
                budget -= num_tokens
                scheduled.append(Scheduled(sequence, num_tokens, num_tokens == sequence.num_uncomputed))
        scheduled.sort(key=_slot)  # llama.cpp computes together what is next to each other
        return scheduled

    def remove(self, sequence: Sequence) -> None:
        """The one exit, for the finished, stopped, aborted and failed alike, whatever they were doing."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self.running.remove(sequence)
            self.kv_cache.release(sequence)
        sequence.state = State.FINISHED

    def check_integrity(self) -> None:
        owners = {slot.owner for slot in self.kv_cache.slots if slot.owner is not None}
        assert owners == set(self.running), "slots and running sequences differ"
        assert all(s.state is State.RUNNING for s in self.running)
        assert all(s.state is State.WAITING and s.slot < 0 for s in self.waiting)
        self.kv_cache.check_integrity()

    def _admit(self) -> None:
        while self.waiting and self.kv_cache.acquire(self.waiting[0]):
            sequence = self.waiting.popleft()
            sequence.state = State.RUNNING
            self.running.append(sequence)

    def _fill_from_donors(self) -> None:
        """Sequences that waited for another's prefill go on when it is done, or gone."""
        for sequence in self.running:
            donor = sequence.donor
            if donor is not None and not (donor.state is State.RUNNING and donor.is_prefill):
                self.kv_cache.fill(sequence)


def _slot(scheduled: Scheduled) -> int:
    return scheduled.sequence.slot
