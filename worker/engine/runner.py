"""What the engine needs of a model: batches in, logits out, cells moved between slots.

A slot is one of the sequences that a context can hold. Everything here belongs to the engine's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class DecodeError(Exception):
    """llama_decode refused or failed; nothing of the batch may be relied on."""


@dataclass(slots=True)
class Chunk:
    """Consecutive tokens of one slot, starting at `position`; the last `num_logits` of them want logits."""

    slot: int
    position: int
    tokens: Sequence[int]
    num_logits: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What `length` tokens have left behind in a model's memory, outside of any slot."""

    data: memoryview
    length: int
    shortest: int  # it can be cut down to so many tokens when it is loaded, not further


class ModelRunner(Protocol):
    """What the engine needs of a model; tests bring one without weights."""

    num_slots: int
    context_length: int
    max_batch: int
    copies_are_free: bool
    keeps_every_position: bool
    """Whether any prefix of what a slot holds can go on; a sliding window and a recurrent state forget."""

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        """Logits in the order of the chunks; the rows are the caller's to overwrite until the next call."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens: none, or not fewer than `shortest`."""
        ...

    def shortest(self, slot: int) -> int:
        """The fewest tokens that a slot can be cut down to with every position there that they attend to.

        Emptying it is always possible.
        """
        ...

    def shortest_copy(self, slot: int) -> int:
        """As `shortest`, of what `copy` and `save` take along, which may be fewer positions."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` tokens of `source`, where copies are free."""
        ...

    def save(self, slot: int) -> State: ...

    def load(self, state: State, slot: int, length: int) -> None:
        """Make a slot hold the first `length` tokens of a state, and nothing else."""
        ...

    def length(self, slot: int) -> int: ...

    def close(self) -> None: ...
