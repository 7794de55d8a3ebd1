"""States of prefixes that have lost their slot, kept in memory within a number of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from worker.engine.prefix_index import PUBLIC, PrefixIndex, Tier
from worker.engine.runner import State


@dataclass(slots=True, eq=False)
class Saved:
    """A state in memory. `worth` grows with what it saves to compute, by byte, and with its latest use."""

    state: State
    worth: float = 0.0
    num_hits: int = 1
    pinned: bool = False
    unread: bool = False  # came from a file, and no request has had it yet
    tier: Tier = Tier.MEMORY
    namespace: str = PUBLIC

    @property
    def length(self) -> int:
        return self.state.length

    @property
    def shortest(self) -> int:
        return self.state.shortest

    @property
    def num_bytes(self) -> int:
        return self.state.data.nbytes


class MemoryTier:
    """Evicts by GreedyDual-Size-Frequency (Cherkasova, 1998); what is pinned stays, and does not count."""

    def __init__(self, index: PrefixIndex, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.entries: dict[Saved, None] = {}  # in the order in which they came
        self._index = index
        self._inflation = 0.0  # the worth of what was evicted last: newer entries begin above it

    def has_room_for(self, num_bytes: float) -> bool:
        return num_bytes <= self.max_bytes

    def put(
        self,
        tokens: list[int],
        state: State,
        seconds: float,
        namespace: str = PUBLIC,
        pinned: bool = False,
    ) -> Saved | None:
        """Keep a state that took so many seconds to compute; None where not even it alone has room."""
        saved = Saved(state, pinned=pinned, namespace=namespace)
        if not pinned:
            if not self.has_room_for(saved.num_bytes):
                return None
            while self.num_bytes + saved.num_bytes > self.max_bytes:
                self._evict()
            self.num_bytes += saved.num_bytes
        self.entries[saved] = None
        self._index.insert(saved, tokens)
        self._rate(saved, seconds)
        return saved

    def hit(self, saved: Saved, seconds: float) -> None:
        """Note that a state was of use again; it may have been evicted meanwhile."""
        saved.num_hits += 1
        saved.unread = False
        self._rate(saved, seconds)

    def remove(self, saved: Saved) -> None:
        self.entries.pop(saved, None)
        self._index.remove(saved)
        if not saved.pinned:
            self.num_bytes -= saved.num_bytes

    def check_integrity(self) -> None:
        assert self.num_bytes == sum(s.num_bytes for s in self.entries if not s.pinned) <= self.max_bytes
        assert all(len(self._index.tokens(s)) == s.length for s in self.entries)

    def _evict(self) -> None:
        least = min((s for s in self.entries if not s.pinned), key=_worth)
        self._inflation = least.worth
        self.remove(least)

    def _rate(self, saved: Saved, seconds: float) -> None:
        saved.worth = self._inflation + saved.num_hits * seconds / max(1, saved.num_bytes)


def _worth(saved: Saved) -> float:
    return saved.worth
