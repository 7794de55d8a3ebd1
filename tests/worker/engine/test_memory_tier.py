"""What stays in memory when there is not room for everything."""

from __future__ import annotations

import pytest

from worker.engine.memory_tier import MemoryTier, Saved
from worker.engine.prefix_index import PrefixIndex
from worker.engine.runner import State


def state(length: int, num_bytes: int = 100) -> State:
    return State(memoryview(bytes(num_bytes)), length, 0)


def put(memory: MemoryTier, first: int, seconds: float = 1.0, num_bytes: int = 100) -> Saved | None:
    return memory.put([first, 1, 2], state(3, num_bytes), seconds)


def test_the_oldest_that_nobody_came_back_for_is_evicted() -> None:
    memory = MemoryTier(PrefixIndex(), 300)
    first, second, third = (put(memory, i) for i in range(3))
    assert first is not None
    memory.hit(first, 1.0)
    fourth = put(memory, 3)
    assert list(memory.entries) == [first, third, fourth]
    assert second not in memory.entries
    memory.check_integrity()


@pytest.mark.parametrize("worth", ["dear", "small", "popular"])
def test_what_saves_more_by_byte_outlives_what_came_later(worth: str) -> None:
    memory = MemoryTier(PrefixIndex(), 1000)
    kept = put(memory, 0, seconds=5.0 if worth == "dear" else 1.0, num_bytes=20 if worth == "small" else 100)
    assert kept is not None
    for _ in range(4 if worth == "popular" else 0):
        memory.hit(kept, 1.0)
    for i in range(1, 15):
        put(memory, i)
    assert kept in memory.entries
    for i in range(15, 200):  # not for ever
        put(memory, i)
    assert kept not in memory.entries
    memory.check_integrity()


def test_what_is_pinned_stays_and_what_is_too_large_never_comes() -> None:
    memory = MemoryTier(PrefixIndex(), 300)
    pinned = memory.put([9, 9, 9], state(3, 1000), 1.0, pinned=True)
    assert put(memory, 1, num_bytes=301) is None
    for i in range(20):
        put(memory, i)
    assert pinned in memory.entries
    memory.check_integrity()
