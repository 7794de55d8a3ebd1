"""A model without weights: the next token is a function of every token in the slot, so a wrong cell shows."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from worker.engine.detokenizer import Detokenizer
from worker.engine.engine import Engine
from worker.engine.runner import Chunk, DecodeError, Logits, State
from worker.engine.sampling import Row, Sampler
from worker.engine.sequence import Output
from worker.engine.sequence import Sequence as Running
from worker.protocol import SamplingParams

VOCABULARY_SIZE = 64
END = 0


def next_token(tokens: Sequence[int]) -> int:
    """Depends on all tokens and their order; never END."""
    state = 7
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return 1 + state % (VOCABULARY_SIZE - 1)


def repeating_token(tokens: Sequence[int]) -> int:
    """Goes round in circles, but for every 17th token, which depends on all before it."""
    return next_token(tokens) if len(tokens) % 17 == 0 else 1 + tokens[-1] % 4


NextToken = Callable[[Sequence[int]], int]


def continuation(prompt: Sequence[int], length: int, next_token: NextToken = next_token) -> list[int]:
    """What a sequence on its own would generate: the oracle."""
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeModelRunner:
    """Keeps real token lists for cells, and refuses what llama.cpp would refuse.

    With a `window`, cells that are further back are lost as new ones need their place, and no state has them;
    a `recurrent` one knows only where it stands.
    """

    SLACK = 6  # cells beside the window

    def __init__(
        self,
        num_slots: int = 4,
        context_length: int = 64,
        max_batch: int = 16,
        copies_are_free: bool = False,
        next_token: NextToken = next_token,
        window: int | None = None,
        recurrent: bool = False,
    ) -> None:
        self.num_slots, self.context_length, self.max_batch = num_slots, context_length, max_batch
        self.copies_are_free = copies_are_free
        self.keeps_every_position = window is None and not recurrent
        self.next_token = next_token
        self.window, self.recurrent = window, recurrent
        self.cells: list[list[int]] = [[] for _ in range(num_slots)]
        self.first = [0] * num_slots  # the oldest position that is still there
        self.num_computed = 0
        self.num_copied = 0  # tokens that went into states and out of them
        self.batches: list[list[Chunk]] = []
        self.poison: int | None = None  # a batch with this token fails
        self.closed = False
        self.time = 0.0

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        assert not self.closed
        assert 0 < sum(len(c.tokens) for c in chunks) <= self.max_batch + self.num_slots
        assert [c.slot for c in chunks] == sorted({c.slot for c in chunks}), "slots in order, each once"
        self.batches.append(list(chunks))
        if any(self.poison in c.tokens for c in chunks):
            for chunk in chunks if self.recurrent else ():  # what came of it cannot be taken back
                self.cells[chunk.slot] = []
            raise DecodeError("poisoned")
        rows = []
        self.time += 0.004 + 0.002 * (chunks[-1].slot - chunks[0].slot + 1 - len(chunks))
        for chunk in chunks:
            # A decode costs as much as in a batch of llama.cpp's, a token more with a long past.
            self.time += len(chunk.tokens) * (0.002 + chunk.position * 0.000004)
            cells = self.cells[chunk.slot]
            assert len(cells) == chunk.position, "positions must be consecutive"
            assert self.first[chunk.slot] <= self._oldest_attended(chunk.position), "attends to lost cells"
            cells.extend(chunk.tokens)
            self._forget(chunk.slot)
            assert len(cells) <= self.context_length
            self.num_computed += len(chunk.tokens)
            for back in range(chunk.num_logits - 1, -1, -1):
                row = np.zeros(VOCABULARY_SIZE, np.float32)
                row[self.next_token(cells[: len(cells) - back])] = 1
                rows.append(row)
        return np.stack(rows) if rows else np.empty((0, VOCABULARY_SIZE), np.float32)

    def truncate(self, slot: int, length: int) -> None:
        assert length >= len(self.cells[slot]) or length == 0 or length >= self.shortest(slot)
        del self.cells[slot][length:]
        if length == 0:
            self.first[slot] = 0

    def shortest(self, slot: int) -> int:
        return self._shortest(len(self.cells[slot]), self.first[slot])

    def shortest_copy(self, slot: int) -> int:
        return self.shortest(slot) if self.copies_are_free else self._shortest_saved(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        assert self.copies_are_free
        assert length == self.length(source) or length >= self.shortest_copy(source)
        self.cells[target] = self.cells[source][:length]
        self.first[target] = self.first[source]

    def save(self, slot: int) -> State:
        cells = self.cells[slot]
        self._pay_for(len(cells))
        return State(memoryview(array("i", cells)), len(cells), self._shortest_saved(slot))

    def load(self, state: State, slot: int, length: int) -> None:
        assert state.data.format == "i" or len(state.data) == 4 * state.length, "not a state of this runner"
        assert length == state.length or state.shortest <= length <= state.length
        self._pay_for(state.length)
        self.cells[slot] = state.data.cast("B").cast("i").tolist()[:length]
        self.first[slot] = self._oldest_attended(state.length - 1) if state.shortest else 0

    def length(self, slot: int) -> int:
        return len(self.cells[slot])

    def close(self) -> None:
        self.closed = True

    def _oldest_attended(self, position: int) -> int:
        return 0 if self.window is None else max(0, position - self.window + 1)

    def _forget(self, slot: int) -> None:
        if self.window is not None:
            kept = len(self.cells[slot]) - self.window - self.SLACK
            self.first[slot] = max(self.first[slot], kept)

    def _shortest(self, length: int, first: int) -> int:
        if self.recurrent:
            return length
        return min(length, first + (self.window or 1) - 1) if first else 0

    def _shortest_saved(self, slot: int) -> int:
        length = len(self.cells[slot])
        return self._shortest(length, max(self.first[slot], self._oldest_attended(length - 1)))

    def _pay_for(self, num_tokens: int) -> None:
        self.num_copied += num_tokens
        self.time += num_tokens * 0.000015


class LetterVocabulary:
    """Each token is one character."""

    size = VOCABULARY_SIZE

    def piece(self, token: int) -> bytes:
        return bytes([64 + token])

    def is_end(self, token: int) -> bool:
        return token == END


class Forcing:
    """A constraint that allows everything, and after some tokens leaves no choice about the next three."""

    def __init__(self, first: Sequence[int] = (), last: int | None = None) -> None:
        """`first` must come first; after the token `last` nothing may follow."""
        self._due = list(first)
        self._last = last
        self.is_complete = False
        self.num_forced = 0

    def allows(self, token: int) -> bool:
        return True

    def mask(self, row: Row) -> None:
        pass

    def accept(self, token: int) -> None:
        self._due = [*self.after(token)]
        self.is_complete = token == self._last

    def forced(self) -> list[int]:
        forced, self._due = self._due, []
        self.num_forced += len(forced)
        return forced

    @staticmethod
    def after(token: int) -> list[int]:
        return [10, 11, token] if token % 3 == 0 else []


def forced_continuation(prompt: Sequence[int], length: int, next_token: NextToken = next_token) -> list[int]:
    """What a sequence under such a constraint would generate on its own."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + length:
        token = next_token(tokens)
        tokens += [token, *Forcing.after(token)]
    return tokens[len(prompt) : len(prompt) + length]


def text_of(tokens: Sequence[int]) -> str:
    return "".join(chr(64 + token) for token in tokens)


def make_engine(
    runner: FakeModelRunner | None = None,
    max_waiting: int = 100,
    prefix_cache: bool = True,
    cache_bytes: int = 0,
    **options: Any,
) -> Engine:
    """An engine without its thread: the test drains and steps."""
    runner = runner or FakeModelRunner()
    return Engine(
        runner,
        LetterVocabulary(),
        max_waiting=max_waiting,
        prefix_cache=prefix_cache,
        cache_bytes=cache_bytes,
        drafts=not runner.recurrent,
        clock=lambda: runner.time,
        **options,
    )


def make_sequence(
    prompt: Sequence[int],
    max_tokens: int = 8,
    stop: tuple[str, ...] = (),
    constraint: Forcing | None = None,
    client: str = "",
    **sampling: Any,
) -> Running:
    params = SamplingParams(temperature=0, stop=stop, **sampling)
    return Running(
        list(prompt),
        Sampler(params, constraint),
        Detokenizer(stop),
        max_tokens,
        client=client,
    )


def submit(engine: Engine, sequence: Running) -> Running:
    engine.submit(sequence)
    engine.drain()
    return sequence


def run(engine: Engine) -> None:
    """Step until nothing is left to do."""
    engine.drain()
    while not engine.is_idle:
        engine.step()
        engine.drain()
    engine.check_integrity()


def fetched(sequence: Running) -> Output | None:
    """What the consumer would get now."""
    item = sequence.channel.take(_refuse)
    assert item is None or isinstance(item, Output)
    return item


class NothingYet(Exception):
    pass


def _refuse() -> NoReturn:
    raise NothingYet
