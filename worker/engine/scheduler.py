"""Which tokens the next step computes: every running sequence's next one, and prompts in chunks.

Knows sequences and slots, never logits. First come, first served, but for fairness between clients.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass

from worker.engine.fair_queue import FairQueue
from worker.engine.kv_cache import KVCache
from worker.engine.sequence import MAX_SCORED, Sequence, State


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next `num_tokens` uncomputed tokens of a sequence; `samples` when none is left after them.

    The tokens of `draft` are computed after them, each to be kept where just that one is sampled.
    """

    sequence: Sequence
    num_tokens: int
    samples: bool
    draft: tuple[int, ...] = ()


class PrefillPacer:
    """How many prompt tokens a step may take on beside its decodes, learned from how long steps took.

    Prompt tokens get dearer with the length of what they attend to, and every model and machine has its own
    prices; so the last steps' price sets the next one's share: a least-squares line through the origin, in
    which steps with few prompt tokens weigh little, since what they took extra is mostly noise. What a step
    takes without prompt tokens has to be known for that, about: where it is not, or was long ago, one step
    leaves them out.
    """

    MAX_SLOWDOWN = 2.6  # of a step with prompt tokens over one without; somewhat below 3, which is the aim
    MIN_SHARE = 4  # prompts must get on, even beside the very short steps of a few streams
    TILE = 64  # llama.cpp's attention is twice as fast from 64 tokens of a sequence on
    SMOOTHING = 0.3  # of what a step without prompt tokens takes
    FORGETTING = 0.8  # a step's weight in the price, once another has come
    MEASURE_EVERY = 64  # steps with prompt tokens, after which one goes without

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}  # seconds of a step without prompt tokens, by `_width`
        self._per_token: float | None = None
        self._extra_by_tokens = self._tokens_squared = 0.0  # the sums behind that slope
        self._since_plain = 0

    def share(self, num_decodes: int) -> int:
        """Prompt tokens for a step with so many decodes; one more than whole tiles where that is possible.

        One more, since the first token of each prompt is computed together with the decodes.
        """
        plain = self._plain.get(_width(num_decodes))
        if plain is None or self._since_plain >= self.MEASURE_EVERY:
            return 0
        if self._per_token is None:
            return max(self.MIN_SHARE, num_decodes)  # a careful guess
        share = max(self.MIN_SHARE, int((self.MAX_SLOWDOWN - 1) * plain / self._per_token))
        return share if share <= self.TILE else (share - 1) // self.TILE * self.TILE + 1

    def spare(self, num_decodes: int) -> float:
        """Seconds that a step with so many decodes may take beyond them; without any, as many as it likes."""
        plain = self._plain.get(_width(num_decodes)) if num_decodes else None
        return math.inf if plain is None else (self.MAX_SLOWDOWN - 1) * plain

    def observe(self, num_decodes: int, num_prompt_tokens: int, seconds: float) -> None:
        if not num_decodes:
            return
        width = _width(num_decodes)
        if not num_prompt_tokens:
            self._plain[width] = self._smooth(self._plain.get(width), seconds)
            self._since_plain = 0
        elif width in self._plain:
            extra = seconds - self._plain[width]
            self._extra_by_tokens = self.FORGETTING * self._extra_by_tokens + num_prompt_tokens * extra
            self._tokens_squared = self.FORGETTING * self._tokens_squared + num_prompt_tokens**2
            # Never free: steps that were fast by chance must not open the gates all at once.
            floor = self._plain[width] / (num_decodes + num_prompt_tokens) / 4
            self._per_token = max(self._extra_by_tokens / self._tokens_squared, floor)
            self._since_plain += 1

    def _smooth(self, old: float | None, new: float) -> float:
        return new if old is None else old + self.SMOOTHING * (new - old)


def _width(num_decodes: int) -> int:
    """Batches that take about as long: half an octave."""
    return round(2 * math.log2(num_decodes))


class Scheduler:
    """`waiting` until a slot is free, then `running` in the order of admission."""

    BURST = 4  # running sequences for each that decodes, beyond which prompts are not paced
    # Prompt tokens beside each decode up to which a prompt is not cut: such a step is some four times as
    # long, once, and the next ones make up for it. With 4, 24 users on 8 slots got a fifth fewer tokens.
    SHORT_PER_DECODE = 12

    def __init__(self, kv_cache: KVCache, max_batch: int, drafts: bool = True) -> None:
        self.kv_cache = kv_cache
        self.max_batch = max_batch
        self.drafts = drafts
        self.pacer = PrefillPacer()
        self._overdrawn = 0  # prompt tokens beyond the pacer's share, which the next steps make up for
        self._num_steps = 0
        self.waiting = FairQueue()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)

    def schedule(self) -> list[Scheduled]:
        """Admit who fits, then spend the step's token budget: decodes first, then prompts in order."""
        self._num_steps += 1
        self.kv_cache.collect()
        self._preempt()
        self._admit()
        self._fill_from_donors()
        self.kv_cache.close_gap()
        decoding = [s for s in self.running if not s.is_prefill]
        if self.drafts and len(self.running) == len(decoding) == 1 and decoding[0].num_uncomputed == 1:
            return [self._with_draft(decoding[0])]
        scheduled = self._decodes(decoding)
        scheduled += self._prompts(len(decoding), sum(s.num_tokens for s in scheduled))
        scheduled.sort(key=_slot)  # llama.cpp computes together what is next to each other
        return scheduled

    def _decodes(self, decoding: list[Sequence]) -> list[Scheduled]:
        """Each one's token that is due, and what its constraint has forced since, as far as there is room."""
        room = self.max_batch - len(decoding)
        scheduled: list[Scheduled] = []
        for sequence in decoding:
            num_tokens = min(sequence.num_uncomputed, 1 + room)
            room -= num_tokens - 1
            scheduled.append(Scheduled(sequence, num_tokens, num_tokens == sequence.num_uncomputed))
        return scheduled

    def _prompts(self, num_decodes: int, num_scheduled: int) -> list[Scheduled]:
        """Prompts in turn: short ones whole, since cutting costs, long ones as far as is allowed."""
        # Pacing protects the many from the few: where nearly all wait for their first token, a burst of
        # requests is computed at full speed.
        paced = num_decodes > 0 and self.BURST * num_decodes >= len(self.running)
        share = short = allowed = budget = self.max_batch - num_scheduled
        if paced:
            share = self.pacer.share(num_decodes)
            short = max(share, self.SHORT_PER_DECODE * num_decodes)
            num_forced = num_scheduled - num_decodes  # which cost as much
            allowed = share - self._overdrawn - num_forced
        scheduled: list[Scheduled] = []
        num_scored = 0
        for sequence in self._in_prefill():
            if allowed <= 0 or budget <= 0:
                break
            if sequence.is_scored and num_scored + sequence.num_due > MAX_SCORED:
                continue
            num_tokens = sequence.num_due
            begun = sequence.num_computed > sequence.num_cached  # the end of a long prompt is not short
            if num_tokens > (share if begun else short):
                num_tokens = min(num_tokens, allowed)
            if num_tokens > budget:
                if scheduled:
                    break  # the next step has room for all of it
                num_tokens = budget
            budget -= num_tokens
            allowed -= num_tokens
            num_scored += num_tokens if sequence.is_scored else 0
            scheduled.append(Scheduled(sequence, num_tokens, num_tokens == sequence.num_uncomputed))
        self._overdrawn = max(0, -allowed) if paced else 0
        return scheduled

    def _in_prefill(self) -> list[Sequence]:
        """In the order of admission in every second step, by what is left in the others.

        So a short prompt need not wait for a long one, and the long one gets on whoever comes.
        """
        prompts = [s for s in self.running if s.is_prefill and s.donor is None]
        return prompts if self._num_steps % 2 else sorted(prompts, key=_num_uncomputed)

    def _with_draft(self, sequence: Sequence) -> Scheduled:
        """Alone, a sequence leaves much of a step's arithmetic unused: it may run ahead of its samples."""
        room = min(sequence.max_tokens - sequence.num_output, self.max_batch) - 1
        draft = sequence.lookup.draft(sequence.tokens, room)
        return Scheduled(sequence, sequence.num_uncomputed, True, tuple(draft))

    def observe(self, scheduled: list[Scheduled], seconds: float) -> None:
        """Learn from how long a step took."""
        if scheduled[0].draft:
            return
        num_decodes = sum(not s.sequence.is_prefill for s in scheduled)
        num_other_tokens = sum(s.num_tokens for s in scheduled) - num_decodes
        self.pacer.observe(num_decodes, num_other_tokens, seconds)
        self.kv_cache.costs.observe_step(num_decodes, num_other_tokens, seconds)

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
        """Give slots to who is next, until copying what they begin with has taken as long as a step may."""
        self.kv_cache.transfer_seconds = 0.0
        spare = self.pacer.spare(sum(not s.is_prefill for s in self.running))
        admitted: list[Sequence] = []
        while len(self.waiting) and len(admitted) < self.kv_cache.num_free:
            admitted.append(self.waiting.pop(self.running + admitted))
        # Side by side by length: llama.cpp computes neighbours together as far as they are equally long.
        admitted.sort(key=_length, reverse=True)
        while admitted and self.kv_cache.transfer_seconds <= spare:
            sequence = admitted.pop(0)
            self.kv_cache.acquire(sequence)
            sequence.state = State.RUNNING
            sequence.admitted = sequence.admitted or time.monotonic()
            self.running.append(sequence)
        for sequence in reversed(admitted):
            self.waiting.put_back(sequence)

    def _preempt(self) -> None:
        """Where all slots are taken, a client that has none gets one from a client that has several.

        Who has come last gives way, and goes on where it was: its cells are kept like any others.
        """
        if not len(self.waiting) or self.kv_cache.num_free:
            return
        num_running = Counter(s.client for s in self.running)
        if num_running[self.waiting.next_client(self.running)]:
            return
        richest, most = num_running.most_common(1)[0]
        if most > 1:
            last = next(s for s in reversed(self.running) if s.client == richest)
            self.running.remove(last)
            self.kv_cache.release(last)
            last.state, last.donor, last.slot = State.WAITING, None, -1
            self.waiting.put_back(last)

    def _fill_from_donors(self) -> None:
        """Sequences that waited for another's prefill or a file go on when it is done, or gone."""
        for sequence in self.running:
            if sequence.donor is not None and not sequence.donor.is_pending:
                self.kv_cache.fill(sequence)


def _length(sequence: Sequence) -> int:
    return sequence.num_prompt


def _num_uncomputed(sequence: Sequence) -> int:
    return sequence.num_uncomputed


def _slot(scheduled: Scheduled) -> int:
    return scheduled.sequence.slot
