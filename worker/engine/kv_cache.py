"""Which slot holds which tokens: who may run where, and what prefix can be had without computing it.

Pure bookkeeping over a ModelRunner; a slot's cells stay after its sequence has left, until it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from worker.engine.runner import ModelRunner
from worker.engine.sequence import Sequence

# Copying cells costs memory bandwidth in proportion to what the source holds, computing costs arithmetic:
# one token computed is worth about this many copied.
COPIES_PER_COMPUTED_TOKEN = 64
# A sequence waits for another's prefill only when that saves it at least this many tokens.
MIN_SHARED_PREFILL = 16


@dataclass(slots=True, eq=False)
class Slot:
    index: int
    owner: Sequence | None = None
    cached: list[int] = field(default_factory=list)  # what the last owner left
    last_used: int = 0
    idle_steps: int = 0  # for how many steps it has been a hole between busy slots

    @property
    def tokens(self) -> list[int]:
        """Tokens whose cells are computed."""
        return self.cached if self.owner is None else self.owner.tokens[: self.owner.num_computed]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A prefix whose state is kept outside the slots, so that nothing evicts it."""

    tokens: list[int]
    state: Any


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens can be had from `source`."""

    length: int = 0
    source: Slot | Pinned | None = None


class KVCache:
    """`acquire` a slot, `fill` it with the best prefix there is, `release` it. One thread only."""

    def __init__(self, runner: ModelRunner, prefix_cache: bool = True) -> None:
        self.runner = runner
        self.prefix_cache = prefix_cache
        self.slots = [Slot(index) for index in range(runner.num_slots)]
        self.pinned: Pinned | None = None
        self._clock = 0

    @property
    def num_free(self) -> int:
        return sum(slot.owner is None for slot in self.slots)

    def acquire(self, sequence: Sequence) -> None:
        """Give the sequence a free slot with the best prefix there is; the caller knows that one is free."""
        free = [slot for slot in self.slots if slot.owner is None]
        match = self._match(sequence)
        candidates = free if self.runner.copies_are_free else self._compact(free)
        slot = match.source if match.source in candidates else min(candidates, key=_staleness)
        assert isinstance(slot, Slot)
        self._clock += 1
        slot.owner, slot.last_used = sequence, self._clock
        sequence.slot = slot.index
        sequence.donor = self._donor(sequence, match.length)
        if sequence.donor is None:
            self._fill(sequence, match, slot)

    def fill(self, sequence: Sequence) -> None:
        """Give a sequence that has waited for its donor the best prefix there is now."""
        sequence.donor = None
        self._fill(sequence, self._match(sequence), self.slots[sequence.slot])

    def release(self, sequence: Sequence) -> None:
        """The one way out of a slot; the cells stay for whoever begins alike."""
        slot = self.slots[sequence.slot]
        assert slot.owner is sequence
        if sequence.donor is None:
            self.trim(sequence)
            slot.cached = sequence.tokens[: sequence.num_computed]
        slot.owner, slot.idle_steps = None, 0
        self._clock += 1
        slot.last_used = self._clock

    def trim(self, sequence: Sequence) -> None:
        """Forget what was computed beyond the sequence's own tokens: a draft that was not taken."""
        self.runner.truncate(sequence.slot, sequence.num_computed)

    def close_gap(self) -> None:
        """Let the last busy slot's sequence change places with what an idle slot between busy ones holds.

        llama.cpp computes only neighbouring slots together, and an idle one between them costs a token in
        every step. A hole that has just opened is left alone, since who comes next will fill it.
        """
        busy = [slot for slot in self.slots if slot.owner is not None]
        if self.runner.copies_are_free or len(busy) < 2:
            return
        last = busy[-1]
        holes = [s for s in self.slots[busy[0].index : last.index] if s.owner is None]
        hole = next((s for s in holes if s.idle_steps > 0), None)
        for slot in holes:
            slot.idle_steps += 1
        if hole is None or last.owner is None or last.owner.donor is not None:
            return
        self.runner.swap(hole.index, last.index)
        hole.cached, last.cached = last.cached, hole.cached
        hole.last_used, last.last_used = last.last_used, hole.last_used
        hole.owner, last.owner = last.owner, None
        hole.owner.slot = hole.index

    def discard(self, sequence: Sequence) -> None:
        """Empty the slot of a sequence whose cells cannot be trusted; it stays the owner."""
        self.runner.truncate(sequence.slot, 0)
        sequence.num_computed = 0

    def pin(self, slot: Slot) -> None:
        """Keep what a slot holds for good."""
        self.pinned = Pinned(slot.tokens, self.runner.save(slot.index))

    def check_integrity(self) -> None:
        """Every slot's cells are exactly the tokens that the bookkeeping says; asserted between steps."""
        for slot in self.slots:
            owner = slot.owner
            if owner is not None:
                assert owner.slot == slot.index, f"slot {slot.index} is owned by a sequence of {owner.slot}"
            expected = len(slot.cached if owner is None or owner.donor is not None else slot.tokens)
            held = self.runner.length(slot.index)
            assert held == expected, f"slot {slot.index} holds {held} tokens instead of {expected}"

    def _fill(self, sequence: Sequence, match: Match, slot: Slot) -> None:
        own = self._own_prefix(sequence, slot)
        if match.source is slot or own + self._copy_cost(match) >= match.length:
            self.runner.truncate(slot.index, own)
            length = own
        else:
            length = match.length
            if isinstance(match.source, Pinned):
                self.runner.load(match.source.state, slot.index, length)
            else:
                assert match.source is not None
                self.runner.copy(match.source.index, slot.index, length)
        slot.cached = []
        sequence.num_computed = sequence.num_cached = length

    def _own_prefix(self, sequence: Sequence, slot: Slot) -> int:
        return self._usable(sequence, slot.cached) if self.prefix_cache else 0

    def _copy_cost(self, match: Match) -> int:
        if match.source is None:
            return 0
        if self.runner.copies_are_free:
            return 0
        return 1 + len(match.source.tokens) // COPIES_PER_COMPUTED_TOKEN

    def _match(self, sequence: Sequence) -> Match:
        """The longest prefix that anything holds; a free slot before the others, since it needs no copy."""
        if not self.prefix_cache:
            return Match()
        best = Match()
        for source in self._sources(sequence):
            length = self._usable(sequence, source.tokens)
            if length > best.length:
                best = Match(length, source)
        return best

    def _sources(self, sequence: Sequence) -> Iterable[Slot | Pinned]:
        if self.pinned is not None:
            yield self.pinned
        for slot in self.slots:
            if slot.owner is None or (slot.owner is not sequence and slot.owner.donor is None):
                yield slot

    def _donor(self, sequence: Sequence, available: int) -> Sequence | None:
        """A sequence in prefill that will soon hold much more of this prompt than there is now."""
        if not self.prefix_cache:
            return None
        for slot in self.slots:
            owner = slot.owner
            if owner is not None and owner is not sequence and owner.is_prefill:
                shared = self._usable(sequence, owner.tokens)
                if shared - max(available, owner.num_computed) >= MIN_SHARED_PREFILL:
                    return owner
        return None

    def _usable(self, sequence: Sequence, tokens: list[int]) -> int:
        # The prompt's last token is always computed: its logits are needed.
        return min(common_prefix(sequence.tokens, tokens), sequence.num_prompt - 1)

    def _compact(self, free: list[Slot]) -> list[Slot]:
        """Of the free slots those that keep the busy ones together: holes first, then the neighbours."""
        busy = [slot.index for slot in self.slots if slot.owner is not None]
        if not busy:
            return free
        first, last = busy[0], busy[-1]
        holes = [slot for slot in free if first < slot.index < last]
        return holes or [slot for slot in free if slot.index in (first - 1, last + 1)]


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many leading tokens are equal; by halving, as comparing slices is fast and loops are not."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _staleness(slot: Slot) -> int:
    return slot.last_used
