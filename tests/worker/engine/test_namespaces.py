"""What one key has asked is neither found by another nor told to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine.fake_runner import FakeModelRunner, make_engine, make_sequence, run, submit
from tests.worker.engine.inline import Inline
from worker.engine.engine import Engine
from worker.engine.prefix_folder import PrefixFolder

SYSTEM = [1 + i * 7 % 60 for i in range(300)]
KINDS: list[dict[str, Any]] = [{}, {"window": 9}, {"recurrent": True}, {"copies_are_free": True}]
MIB = 2**20


def process(folder: Path, num_slots: int, **kind: Any) -> Engine:
    runner = FakeModelRunner(num_slots=num_slots, context_length=500, max_batch=256, **kind)
    files = PrefixFolder(folder, str(kind), MIB, executor=Inline())
    return make_engine(runner, cache_bytes=MIB, prefix_folder=files)


def num_cached(engine: Engine, prompt: list[int], client: str) -> int:
    sequence = submit(engine, make_sequence(prompt, max_tokens=2, client=client))
    run(engine)
    return sequence.num_cached


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_slots", [1, 4])
def test_no_tier_gives_one_key_what_another_has_asked(
    tmp_path: Path, kind: dict[str, Any], num_slots: int
) -> None:
    for _ in range(2):  # the second time in a process that knows the files
        engine = process(tmp_path, num_slots, **kind)
        for i in range(6):
            num_cached(engine, [*SYSTEM, 1 + i, 50], "one")
        assert num_cached(engine, [*SYSTEM, 60, 50], "one") > 250
        assert num_cached(engine, [*SYSTEM, 61, 50], "another") == 0
        assert num_cached(engine, [*SYSTEM, 62, 50], "") == 0
        engine.kv_cache.check_integrity()


def test_nor_does_one_wait_for_anothers_prefill() -> None:
    engine = make_engine(FakeModelRunner(num_slots=2, context_length=500, max_batch=16))
    one, another = (submit(engine, make_sequence(SYSTEM, 2, client=name)) for name in ("one", "another"))
    engine.step()
    assert (one.donor, another.donor) == (None, None)
    run(engine)
    assert another.num_cached == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pinned_is_everybodys(kind: dict[str, Any]) -> None:
    runner = FakeModelRunner(num_slots=2, context_length=500, max_batch=256, **kind)
    engine = make_engine(runner, cache_bytes=MIB)
    engine._pin(SYSTEM[:40])
    for name in ("one", "another", ""):
        assert num_cached(engine, [*SYSTEM[:40], 3, 4], name) >= 40


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_nobody_has_more_cached_than_was_asked_under_the_same_key(
    seed: int, kind: dict[str, Any]
) -> None:
    rng = random.Random(seed)
    runner = FakeModelRunner(num_slots=3, context_length=100, max_batch=16, **kind)
    engine = make_engine(runner, cache_bytes=5_000)
    stem = [rng.randrange(1, 63) for _ in range(60)]
    asked: dict[str, list[list[int]]] = {"one": [], "another": []}
    for _ in range(150):
        name = rng.choice([*asked])
        prompt = stem[: rng.randrange(1, 60)] + [rng.randrange(1, 63) for _ in range(rng.randrange(1, 5))]
        sequence = submit(engine, make_sequence(prompt, 4, client=name))
        for _ in range(rng.randrange(8)):
            engine.step()
            engine.check_integrity()
        if rng.random() < 0.3:
            run(engine)
        known = max((_shared(prompt, other) for other in asked[name]), default=0)
        assert sequence.num_cached <= known
        asked[name].append(sequence.tokens)
    run(engine)


def _shared(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
