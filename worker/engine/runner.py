"""What the engine needs of a model: batches in, logits out, cells moved between slots.

A slot is one of the sequences that a context can hold. Everything here belongs to the engine's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class ModelRunner(Protocol):
    """What the engine needs of a model; tests bring one without weights."""

    num_slots: int
    context_length: int
    max_batch: int
    copies_are_free: bool

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        """Logits in the order of the chunks; the rows are the caller's to overwrite until the next call."""
        ...

    def truncate(self, slot: int, length: int) -> None: ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` tokens of `source`, and nothing else."""
        ...

    def swap(self, left: int, right: int) -> None: ...

    def save(self, slot: int) -> Any:
        """The slot's cells as something `load` takes, kept for as long as the runner lives."""
        ...

    def load(self, state: Any, slot: int, length: int) -> None: ...

    def length(self, slot: int) -> int: ...

    def close(self) -> None: ...
