"""How long responses are kept, how many, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.openai.responses.store import MEMORY, Kept, ResponseStore
from gateway.settings import StartError

INPUT, RESPONSE = b"[{}]", b'{"output":[{"a":1}]}'


@dataclass
class Clock:
    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[ResponseStore]:
    """Of a hundred bytes, and of ten seconds."""
    store = ResponseStore(MEMORY, max_bytes=100, seconds=10, clock=clock)
    yield store
    store.close()


def kept(name: str, previous: str | None = None, num_bytes: int = 25) -> Kept:
    return Kept(name, previous, INPUT.ljust(num_bytes - len(RESPONSE)), RESPONSE)


def keep(store: ResponseStore, *names: str, owner: str = "me", **more: Any) -> None:
    for name in names:
        asyncio.run(store.keep(owner, kept(name, **more)))


def conversation(store: ResponseStore, name: str, owner: str = "me") -> list[str]:
    return [each.id for each in asyncio.run(store.conversation(owner, name))]


def found(store: ResponseStore, *names: str, owner: str = "me") -> list[str]:
    return [name for name in names if asyncio.run(store.find(owner, name))]


def test_a_response_comes_back_with_all_that_it_continues(store: ResponseStore) -> None:
    keep(store, "a")
    keep(store, "b", previous="a")
    keep(store, "c", previous="b")
    keep(store, "d", previous="b")
    assert conversation(store, "c") == ["a", "b", "c"]
    assert asyncio.run(store.find("me", "c")) == kept("c", "b")
    assert kept("c").items() == [{}, {"a": 1}]


def test_nobody_elses_responses_are_read_continued_or_deleted(store: ResponseStore) -> None:
    keep(store, "a")
    keep(store, "b", previous="a", owner="you")
    assert found(store, "a", owner="you") == []
    assert conversation(store, "a", owner="you") == []
    assert conversation(store, "b", owner="you") == ["b"]
    assert not asyncio.run(store.delete("you", "a"))
    assert found(store, "a") == ["a"]


def test_what_was_not_used_for_the_longest_time_makes_room(store: ResponseStore, clock: Clock) -> None:
    for name in "abcd":
        keep(store, name)
        clock.seconds += 1
    conversation(store, "a")
    clock.seconds += 1
    keep(store, "e")
    assert found(store, *"abcde") == [*"acde"]
    keep(store, "f", num_bytes=101)
    assert found(store, *"acdef") == [*"acde"], "what is too large drives out nothing"


def test_what_nobody_uses_for_too_long_is_gone(store: ResponseStore, clock: Clock) -> None:
    keep(store, "a", "b")
    clock.seconds += 9
    conversation(store, "a")
    clock.seconds += 2
    assert found(store, "a", "b") == ["a"]
    assert not asyncio.run(store.delete("me", "b"))
    keep(store, "c", "d", "e")
    assert found(store, *"acde") == [*"acde"], "the room of what is gone is free"


def test_what_is_deleted_is_gone_and_leaves_its_room(store: ResponseStore) -> None:
    keep(store, *"abcd")
    assert asyncio.run(store.delete("me", "a"))
    assert not asyncio.run(store.delete("me", "a"))
    keep(store, "e")
    assert found(store, *"abcde") == [*"bcde"]


def test_a_file_is_read_again_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    for name in ("ab", "cde"):
        store = ResponseStore(str(tmp_path / "kept.db"), max_bytes=100, seconds=10, clock=clock)
        keep(store, *name)
        clock.seconds += 1
        store.close()
    store = ResponseStore(str(tmp_path / "kept.db"), max_bytes=100, seconds=10, clock=clock)
    assert len(found(store, *"ab")) == 1, "what was there before counts"
    assert found(store, *"cde") == [*"cde"]
    store.close()


@pytest.mark.parametrize("place", ["none/kept.db", "noise.db"])
def test_a_place_that_is_no_database_stops_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / "noise.db").write_bytes(b"no database, but long enough to look like one " * 100)
    with pytest.raises(StartError, match=r"RESPONSES_DB=.* cannot be opened: .*Give the path"):
        ResponseStore(str(tmp_path / place), max_bytes=100, seconds=10)
