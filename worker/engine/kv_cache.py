"""Which slot holds which tokens: who may run where, and what prefix can be had without computing it.

Pure bookkeeping over a ModelRunner. A slot's cells stay after its sequence has left, until another needs the
slot; then its state goes to memory, where that is cheaper than to compute it again. What many begin with goes
to a file too, and comes back by way of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from worker.engine.costs import Costs
from worker.engine.file_tier import FileTier, Reading
from worker.engine.memory_tier import MemoryTier, Saved
from worker.engine.prefix_folder import PrefixFolder, Read, Stored
from worker.engine.prefix_index import PUBLIC, PrefixIndex, Step, Tier
from worker.engine.runner import ModelRunner, State
from worker.engine.sequence import Sequence

# Sharing fewer tokens than this is not worth waiting for another's prefill, or a state of its own.
MIN_SHARED = 16


@dataclass(slots=True, eq=False)
class Slot:
    index: int
    owner: Sequence | None = None
    cached: list[int] = field(default_factory=list)  # what the last owner left
    last_used: int = 0
    idle_steps: int = 0  # for how many steps it has been a hole between busy slots
    left_at: float = 0.0  # what had been lost in all when its last owner left
    tier: Tier = Tier.SLOT
    namespace: str = PUBLIC  # whose the cells are

    @property
    def is_filled(self) -> bool:
        """Whether the cells are the owner's; one that waits for its donor's has not touched them yet."""
        return self.owner is not None and self.owner.donor is None

    @property
    def length(self) -> int:
        """For how many tokens the cells are computed."""
        return self.owner.num_computed if self.owner is not None and self.is_filled else len(self.cached)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the first `length` tokens of a prompt can be had in so many seconds."""

    holder: Slot | Saved
    length: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A slot to run in, the first `length` tokens there from a source, or left from its last owner."""

    slot: Slot
    length: int = 0
    source: Source | None = None
    seconds: float = 0.0


class KVCache:
    """`acquire` a slot with the best prefix there is in it, `release` it. One thread only."""

    def __init__(
        self,
        runner: ModelRunner,
        prefix_cache: bool = True,
        cache_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        folder: PrefixFolder | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called, on any thread, when there is something to `collect`."""
        self.runner = runner
        self.prefix_cache = prefix_cache
        self.slots = [Slot(index) for index in range(runner.num_slots)]
        self.index = PrefixIndex()
        self.memory = MemoryTier(self.index, cache_bytes if prefix_cache else 0)
        has_files = folder is not None and self.memory.max_bytes > 0
        self.files = FileTier(self.index, folder, wake) if folder is not None and has_files else None
        self.costs = Costs(clock)
        self.num_reused = dict.fromkeys(Tier, 0)  # tokens
        self.transfer_seconds = 0.0  # whoever reads it sets it back
        self._clock = clock
        self._uses = 0
        self._lost = 0.0  # seconds' worth of what was given up for others

    @property
    def num_free(self) -> int:
        return sum(slot.owner is None for slot in self.slots)

    def collect(self) -> None:
        """Take over what was read from files and written to them."""
        if self.files is not None:
            self.files.collect()

    def close(self) -> None:
        if self.files is not None:
            self.files.close()

    def acquire(self, sequence: Sequence) -> None:
        """Give the sequence the slot that costs least, all in all; the caller knows that one is free."""
        steps = self._match(sequence)
        sources = list(self._sources(sequence, steps))
        plan = self._choose(sequence, steps, sources)
        plan.slot.owner, plan.slot.last_used = sequence, self._next_use()
        sequence.slot = plan.slot.index
        sequence.donor = self._donor(sequence, steps, plan.length) or self._reading(sequence, steps, plan)
        if sequence.donor is None:
            self._fill(sequence, plan, steps)

    def fill(self, sequence: Sequence) -> None:
        """Give a sequence that has waited for its donor the best prefix there is now."""
        steps = self._match(sequence)
        sources = list(self._sources(sequence, steps))
        plan = self._plan(sequence, self.slots[sequence.slot], _depths(steps), sources)
        sequence.donor = None
        self._fill(sequence, plan, steps)

    def release(self, sequence: Sequence) -> None:
        """The one way out of a slot; the cells stay for whoever begins alike."""
        slot = self.slots[sequence.slot]
        assert slot.owner is sequence
        filled = slot.is_filled
        slot.owner, slot.idle_steps, slot.last_used = None, 0, self._next_use()
        slot.left_at = self._lost
        if filled:
            self.trim(sequence)
            self._set_cached(slot, sequence.tokens[: sequence.num_computed])
        self.costs.num_outputs.observe(1, sequence.num_output)

    def trim(self, sequence: Sequence) -> None:
        """Forget what was computed beyond the sequence's own tokens: a draft that was not taken."""
        self.runner.truncate(sequence.slot, sequence.num_computed)

    def discard(self, sequence: Sequence) -> None:
        """Empty the slot of a sequence whose cells cannot be trusted; it stays the owner."""
        self.runner.truncate(sequence.slot, 0)
        sequence.num_computed = 0

    def vacate(self, slot: Slot) -> None:
        """Empty a slot that nobody runs in, keeping its state where that is worth it."""
        self._keep(slot, 0)
        self.runner.truncate(slot.index, 0)
        self._set_cached(slot, [])

    def restore(self, slot: Slot, tokens: list[int]) -> bool:
        """Whether a file had just these public tokens, which are now in a slot that nobody runs in."""
        length, stored = _longest(Stored, Tier.FILE, self.index.match(tokens), len(tokens))
        if self.files is None or stored is None or length < len(tokens):
            return False
        read = self.files.read_now(stored)
        if read is not None:
            self.costs.read_byte.observe(read.state.data.nbytes, read.seconds)
            self._load(read.state, slot, length)
        return read is not None

    def pin(self, slot: Slot, tokens: list[int], keep_in_file: bool) -> None:
        """Keep for good what is in a slot that nobody runs in."""
        slot.namespace = PUBLIC
        self._set_cached(slot, tokens)
        state = self._save(slot)
        self.memory.put(tokens, state, self.costs.compute(len(tokens)), pinned=True)
        if keep_in_file and self.files is not None and len(tokens) >= self.files.MIN_TOKENS:
            self.files.store(tokens, state, PUBLIC)

    def snapshot(self, sequence: Sequence) -> None:
        """Save the state that a sequence in prefill has reached, if that is one it was to stop at."""
        if not sequence.snapshots or sequence.num_computed < sequence.snapshots[0]:
            return
        length = sequence.snapshots.pop(0)
        slot = self.slots[sequence.slot]
        known = length == sequence.num_prompt and any(
            isinstance(holder, Saved) for holder in self.index.others_at_end(slot)
        )
        if not known and self._has_room_for(length):
            tokens, state = sequence.tokens[:length], self._save(slot)
            self.memory.put(tokens, state, self.costs.compute(length), sequence.client)
            if self.files is not None and length == sequence.file_length:
                self.files.store(tokens, state, sequence.client)

    def close_gap(self) -> None:
        """Let the last busy slot's sequence change places with what an idle slot between busy ones holds.

        llama.cpp computes only neighbouring slots together, and an idle one between them costs a token in
        every step. A hole that has just opened is left alone, since who comes next will fill it, and so is
        one that costs less than the exchange would.
        """
        busy = [slot for slot in self.slots if slot.owner is not None]
        if self.runner.copies_are_free or len(busy) < 2:
            return
        last = busy[-1]
        holes = [s for s in self.slots[busy[0].index : last.index] if s.owner is None]
        hole = next((s for s in holes if s.idle_steps > 0), None)
        for slot in holes:
            slot.idle_steps += 1
        if hole is not None and last.is_filled and self._is_exchange_worth_it(hole, last, busy[-2]):
            self._exchange(hole, last)

    def check_integrity(self) -> None:
        """Every slot's cells are exactly the tokens that the bookkeeping says; asserted between steps."""
        for slot in self.slots:
            owner = slot.owner
            if owner is not None:
                assert owner.slot == slot.index, f"slot {slot.index} is owned by a sequence of {owner.slot}"
            held = self.runner.length(slot.index)
            assert held == slot.length, f"slot {slot.index} holds {held} tokens instead of {slot.length}"
            if self.prefix_cache and slot in self.index:
                owner = owner if slot.is_filled else None
                known = slot.cached if owner is None else owner.tokens[: owner.num_prompt]
                assert self.index.tokens(slot) == known, f"slot {slot.index} is indexed under other tokens"
        self.memory.check_integrity()
        if self.files is not None:
            self.files.check_integrity()
        self.index.check_integrity()

    # -- what there is -----------------------------------------------------------------------------------

    def _match(self, sequence: Sequence) -> list[Step]:
        if not self.prefix_cache or sequence.is_scored:
            return []
        return self.index.match(sequence.tokens, sequence.client)

    def _sources(self, sequence: Sequence, steps: list[Step]) -> Iterator[Source]:
        """The longest prefix that any slot can give, and the longest of any state in memory."""
        limit = _limit(sequence)
        slots = (
            (
                _usable(min(depth, slot.length, limit), slot.length, self.runner.shortest_copy, slot.index),
                slot,
            )
            for slot, depth in _depths(steps).items()
            if slot.owner is not sequence and (slot.owner is None or slot.is_filled)
        )
        length, slot = max(slots, key=_length_then_use, default=(0, None))
        if slot is not None and length:
            free = self.runner.copies_are_free
            yield Source(slot, length, 0.0 if free else self.costs.copy(slot.length))
        length, saved = _longest(Saved, Tier.MEMORY, steps, limit)
        if saved is not None:
            yield Source(saved, length, self.costs.loaded_byte.per_unit * saved.num_bytes)

    def _donor(self, sequence: Sequence, steps: list[Step], available: int) -> Sequence | None:
        """A sequence in prefill that will soon hold much more of this prompt than there is now."""
        if not (self.runner.keeps_every_position or self.memory.max_bytes):
            return None  # by the time it is done, its prefix could no longer be had
        for slot, depth in _depths(steps).items():
            owner = slot.owner
            if owner is None or owner is sequence or not (owner.is_prefill and slot.is_filled):
                continue
            shared = min(depth, _limit(sequence))
            if shared - max(available, owner.num_computed) >= MIN_SHARED:
                if not self.runner.keeps_every_position:
                    owner.snapshots = sorted({*owner.snapshots, shared})
                return owner
        return None

    def _reading(self, sequence: Sequence, steps: list[Step], plan: Plan) -> Reading | None:
        """A file on its way, where it is there sooner than its tokens were computed."""
        if self.files is None:
            return None
        length, stored = _longest(Stored, Tier.FILE, steps, _limit(sequence))
        if stored is None or length <= plan.length or not self.memory.has_room_for(stored.num_bytes):
            return None
        transfers = stored.num_bytes * (self.costs.read_byte.per_unit + self.costs.loaded_byte.per_unit)
        if transfers + self.costs.compute(len(sequence.tokens) - length) >= plan.seconds:
            return None
        return self.files.read(stored, self._arrived)

    def _arrived(self, stored: Stored, read: Read) -> None:
        tokens = self.index.tokens(stored)
        self.costs.read_byte.observe(read.state.data.nbytes, read.seconds)
        seconds = self.costs.compute(stored.length)
        saved = self.memory.put(tokens, read.state, seconds, stored.namespace)
        if saved is not None:
            saved.unread = True

    # -- where to run ------------------------------------------------------------------------------------

    def _choose(self, sequence: Sequence, steps: list[Step], sources: list[Source]) -> Plan:
        """Prefix, copies, what others lose, and the neighbourhood: the least sum of seconds."""
        free = sorted((slot for slot in self.slots if slot.owner is None), key=_last_use)
        busy = [slot.index for slot in self.slots if slot.owner is not None]
        depths = _depths(steps)
        plans = (self._plan(sequence, slot, depths, sources) for slot in free)

        def seconds(plan: Plan) -> float:
            return plan.seconds + self._loss(plan) + self._neighbourhood(plan.slot.index, busy, sequence)

        return min(plans, key=seconds)

    def _plan(self, sequence: Sequence, slot: Slot, depths: dict[Slot, int], sources: list[Source]) -> Plan:
        """The cheapest way to the prompt's prefix in a slot."""
        shared = min(depths.get(slot, 0), len(slot.cached), _limit(sequence))
        own = _usable(shared, len(slot.cached), self.runner.shortest, slot.index)
        best = Plan(slot, own, None, self.costs.compute(len(sequence.tokens) - own))
        for source in sources:
            seconds = source.seconds + self.costs.compute(len(sequence.tokens) - source.length)
            if source.holder is not slot and source.length > own and seconds < best.seconds:
                best = Plan(slot, source.length, source, seconds)
        return best

    def _loss(self, plan: Plan) -> float:
        """What it takes to have again what a slot's last owner left there, or to keep it."""
        kept = 0 if plan.source is not None else plan.length
        computing = self.costs.compute(self._num_lost(plan.slot, kept))
        if self.memory.max_bytes:
            computing = min(computing, self.costs.copy(len(plan.slot.cached)))
        # What nobody has come back for is worth less with everything that had to go meanwhile (GreedyDual).
        return max(0.0, computing - (self._lost - plan.slot.left_at))

    def _num_lost(self, slot: Slot, kept: int) -> int:
        """Tokens that nobody has any more when a slot is cut down to so many."""
        if not self.prefix_cache or not slot.cached:
            return 0
        if not self.runner.keeps_every_position:
            exact = len(slot.cached) == kept or any(True for _ in self.index.others_at_end(slot))
            return 0 if exact else len(slot.cached)
        return len(slot.cached) - max(kept, self.index.num_elsewhere(slot))

    def _neighbourhood(self, index: int, busy: list[int], sequence: Sequence) -> float:
        """What the idle slots between busy ones cost that there will be, or the hole that is filled gains."""
        if self.runner.copies_are_free or not busy:
            return 0.0
        first, last = busy[0], busy[-1]
        num_holes = max(first - index, index - last) - 1 if not first < index < last else -1
        num_steps = min(sequence.max_tokens, self.costs.num_outputs.per_unit)
        return num_holes * num_steps * self.costs.row.per_unit

    def _is_exchange_worth_it(self, hole: Slot, last: Slot, second_last: Slot) -> bool:
        num_rows = last.index - second_last.index  # the hole, and those behind the busy ones that remain
        assert last.owner is not None
        left = max(1.0, self.costs.num_outputs.per_unit - last.owner.num_output)
        gain = num_rows * min(left, last.owner.max_tokens) * self.costs.row.per_unit
        return self.costs.copy(last.length + hole.length) <= gain

    # -- moving cells ------------------------------------------------------------------------------------

    def _fill(self, sequence: Sequence, plan: Plan, steps: list[Step]) -> None:
        slot, source = plan.slot, plan.source
        file_length = self._file_length(sequence, steps)
        self._lost += self._loss(plan)
        self._keep(slot, 0 if source is not None else plan.length)
        if source is None:
            self.runner.truncate(slot.index, plan.length)
        elif isinstance(source.holder, Saved):
            self._load(source.holder.state, slot, plan.length)
        elif self.runner.copies_are_free:
            self.runner.copy(source.holder.index, slot.index, plan.length)
        else:
            # llama.cpp's own copy moves a slot's whole buffer; a state is as long as its tokens.
            self._load(self._save(source.holder), slot, plan.length)
        slot.cached = []
        sequence.num_computed = plan.length
        if not sequence.begun:  # otherwise it goes on after it had to give way
            sequence.begun, sequence.num_cached = True, plan.length
        if self.prefix_cache:
            self._count(plan)
            slot.namespace = sequence.client
            self.index.insert(slot, sequence.tokens[: sequence.num_prompt])
            self._plan_snapshots(sequence, steps)
            if file_length:
                self._make_file(sequence, file_length, steps)

    def _count(self, plan: Plan) -> None:
        tier = Tier.SLOT
        if plan.source is not None and isinstance(plan.source.holder, Saved):
            saved = plan.source.holder
            tier = Tier.FILE if saved.unread else Tier.MEMORY
            self.memory.hit(saved, self.costs.compute(saved.length))
        self.num_reused[tier] += plan.length

    def _plan_snapshots(self, sequence: Sequence, steps: list[Step]) -> None:
        """Where a prefix can be had at its exact length only: stop where others have gone on differently."""
        if self.runner.keeps_every_position or not self.memory.max_bytes:
            return
        ends = {sequence.num_prompt}
        if steps:
            ends.add(min(steps[-1].depth, _limit(sequence)))
        sequence.snapshots = sorted(end for end in ends if end - sequence.num_computed >= MIN_SHARED)

    def _file_length(self, sequence: Sequence, steps: list[Step]) -> int:
        """The length of the shared prefix that is to be a file now; 0 for none.

        It is shared where others have gone on differently: the next turn of a conversation is no such case.
        """
        if self.files is None or sequence.begun or not steps:
            return 0
        depth, node = steps[-1].depth, steps[-1].node
        if depth == len(sequence.tokens) or (depth == node.depth and not node.children):
            return 0
        length = min(depth, _limit(sequence))
        if self.runner.keeps_every_position:
            length -= length % self.files.BLOCK
        if length < self.files.MIN_TOKENS or not self._has_room_for(length):
            return 0
        if _longest(Stored, Tier.FILE, steps, length)[0] == length:
            return 0
        shared = sequence.tokens[:length]
        return length if self.files.is_worth_a_file(shared, sequence.client) else 0

    def _make_file(self, sequence: Sequence, length: int, steps: list[Step]) -> None:
        """Of a state in memory, or of the slot at just this length, cut down to it if need be."""
        assert self.files is not None
        known, saved = _longest(Saved, Tier.MEMORY, steps, length)
        if saved is not None and known == saved.length == length:
            self.files.store(sequence.tokens[:length], saved.state, sequence.client)
            return
        if sequence.num_computed > length >= self.runner.shortest(sequence.slot):
            self.runner.truncate(sequence.slot, length)
            sequence.num_computed = sequence.num_cached = length
        if sequence.num_computed <= length:
            sequence.file_length = length
            sequence.snapshots = sorted({*sequence.snapshots, length})
            self.snapshot(sequence)

    def _keep(self, slot: Slot, kept: int) -> None:
        """Save what is lost when a slot is cut down, where that is cheaper than to compute it again."""
        num_lost = self._num_lost(slot, kept)
        if num_lost < MIN_SHARED or not self._has_room_for(len(slot.cached)):
            return
        seconds = self.costs.compute(num_lost)
        if seconds > self.costs.copy(len(slot.cached)):
            self._supersede(slot)
            self.memory.put(slot.cached, self._save(slot), seconds, slot.namespace)

    def _has_room_for(self, num_tokens: int) -> bool:
        return 0 < self.memory.max_bytes >= num_tokens * self.costs.state_bytes.per_unit

    def _supersede(self, slot: Slot) -> None:
        """Drop what a slot's own state will serve as well: states of a prefix of it."""
        if self.runner.keeps_every_position:
            for saved in list(self.index.prefixes(slot, Tier.MEMORY)):
                if isinstance(saved, Saved) and not saved.pinned:
                    self.memory.remove(saved)

    def _exchange(self, hole: Slot, busy: Slot) -> None:
        moving = self._save(busy)
        resting = self._save(hole) if hole.cached else None
        self._load(moving, hole, moving.length)
        if resting is not None:
            self._load(resting, busy, resting.length)
        else:
            self.runner.truncate(busy.index, 0)
        owner, cached = busy.owner, hole.cached
        assert owner is not None
        busy.owner, hole.owner, owner.slot = None, owner, hole.index
        hole.last_used, busy.last_used = busy.last_used, hole.last_used
        busy.left_at = hole.left_at
        hole.namespace, busy.namespace = busy.namespace, hole.namespace
        hole.cached = []
        self._set_cached(busy, cached)
        if self.prefix_cache:
            self.index.insert(hole, owner.tokens[: owner.num_prompt])

    def _save(self, slot: Slot) -> State:
        started = self._clock()
        state = self.runner.save(slot.index)
        seconds = self._clock() - started
        self.transfer_seconds += seconds
        self.costs.saved_byte.observe(state.data.nbytes, seconds)
        self.costs.state_bytes.observe(state.length, state.data.nbytes)
        return state

    def _load(self, state: State, slot: Slot, length: int) -> None:
        started = self._clock()
        self.runner.load(state, slot.index, length)
        seconds = self._clock() - started
        self.transfer_seconds += seconds
        self.costs.loaded_byte.observe(state.data.nbytes, seconds)

    def _set_cached(self, slot: Slot, tokens: list[int]) -> None:
        slot.cached = tokens
        if self.prefix_cache:
            self.index.insert(slot, tokens)

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses


def _limit(sequence: Sequence) -> int:
    """The last token is always computed, its logits are needed; forced ones are no part of the prompt."""
    return min(sequence.num_prompt, len(sequence.tokens) - 1)


def _usable(shared: int, length: int, shortest: Callable[[int], int], slot: int) -> int:
    """How many of the shared tokens can be had, if what is there can only be cut down so far."""
    if shared == length:
        return length
    return shared if shared >= shortest(slot) else 0


def _depths(steps: list[Step]) -> dict[Slot, int]:
    """How much of what was asked for each slot has, or will have."""
    return {
        slot: step.depth for step in steps for slot in step.node.holders[Tier.SLOT] if isinstance(slot, Slot)
    }


SavedOrStored = TypeVar("SavedOrStored", Saved, Stored)


def _longest(
    kind: type[SavedOrStored], tier: Tier, steps: list[Step], limit: int
) -> tuple[int, SavedOrStored | None]:
    """The longest prefix that a state of a kind can give; of several the one that is loaded soonest."""
    seen: set[object] = set()
    for step in reversed(steps):
        shared = min(step.depth, limit)
        holders = step.node.holders[tier]
        usable = [
            h for h in holders - seen if isinstance(h, kind) and (h.shortest <= shared or h.length <= shared)
        ]
        if usable:
            best = min(usable, key=_num_bytes)
            return shared, best
        seen = set(holders)
    return 0, None


def _num_bytes(saved: Saved | Stored) -> int:
    return saved.num_bytes


def _last_use(slot: Slot) -> int:
    return slot.last_used


def _length_then_use(found: tuple[int, Slot]) -> tuple[int, int]:
    length, slot = found
    return length, -slot.length  # of two that share as much, the shorter is copied sooner
