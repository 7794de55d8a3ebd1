"""What one client asks for does not keep another from its first token."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.worker.engine.fake_runner import (
    FakeModelRunner,
    continuation,
    fetched,
    make_engine,
    make_sequence,
    run,
    submit,
    text_of,
)
from worker.engine.sequence import Sequence, State

LONG = [1 + i % 60 for i in range(2000)]
KINDS: list[dict[str, Any]] = [{}, {"window": 9}, {"recurrent": True}]


def test_slots_are_shared_between_clients_whatever_each_has_asked_for() -> None:
    engine = make_engine(FakeModelRunner(num_slots=4, context_length=100))
    many = [submit(engine, make_sequence([1 + i, 2], 20, client="many")) for i in range(50)]
    few = [submit(engine, make_sequence([60, 1 + i], 20, client="few")) for i in range(9)]
    shares = []
    while any(s.state is not State.FINISHED for s in few):
        engine.step()
        shares.append(sum(s.client == "few" for s in engine.scheduler.running))
    assert set(shares[:50]) == {0, 2}  # none in the steps in which all have just ended
    assert shares[:50].count(2) > 45
    run(engine)
    assert all(fetched(sequence) for sequence in [*many, *few])


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_without_a_slot_gets_one_at_once_and_who_gave_way_goes_on_where_it_was(kind: Any) -> None:
    runner = FakeModelRunner(num_slots=3, context_length=200, max_batch=64, **kind)
    engine = make_engine(runner, cache_bytes=2**20)
    many = [submit(engine, make_sequence([1 + i] * 30, 100, client="many")) for i in range(10)]
    for _ in range(20):
        engine.step()
    computed = runner.num_computed
    other = submit(engine, make_sequence([60] * 10, 5, client="other"))
    engine.step()
    engine.step()
    assert other.num_output >= 1
    assert many[2] in engine.scheduler.waiting
    while other.state is not State.FINISHED:
        engine.step()
        engine.check_integrity()
    engine.step()
    assert many[2] in engine.scheduler.running
    # Nothing was computed twice, but for the token that was due when it gave way.
    decoded = sum(s.num_output for s in (*many, other))
    assert runner.num_computed - computed <= 10 + decoded
    run(engine)
    for i, sequence in enumerate(many):
        output = fetched(sequence)
        assert output is not None
        assert output.text == text_of(continuation([1 + i] * 30, 100))


def test_clients_that_have_one_slot_each_keep_it() -> None:
    engine = make_engine(FakeModelRunner(num_slots=2, context_length=100))
    running = [submit(engine, make_sequence([1 + i], 50, client=f"{i}")) for i in range(2)]
    engine.step()
    submit(engine, make_sequence([9], 50, client="third"))
    for _ in range(10):
        engine.step()
        assert engine.scheduler.running == running
    run(engine)


def test_without_names_it_is_first_come_first_served() -> None:
    engine = make_engine(FakeModelRunner(num_slots=1, context_length=100))
    sequences = [submit(engine, make_sequence([1 + i], 3)) for i in range(8)]
    finished: list[Sequence] = []
    while not engine.is_idle:
        engine.step()
        finished += [s for s in sequences if s.state is State.FINISHED and s not in finished]
    assert finished == sequences


@pytest.mark.parametrize("num_streams", [0, 8])
def test_a_short_prompt_does_not_wait_for_a_long_one(num_streams: int) -> None:
    runner = FakeModelRunner(num_slots=16, context_length=2100, max_batch=256)
    engine = make_engine(runner)
    for i in range(num_streams):
        submit(engine, make_sequence([1 + i, 2, 3], 1000))
    for _ in range(10):
        engine.step()
    long = submit(engine, make_sequence(LONG, 2))
    engine.step()
    engine.step()
    short = submit(engine, make_sequence([60] * 12, 2))
    for _ in range(3):
        engine.step()
    assert short.num_output
    assert long.is_prefill


def test_a_long_prompt_gets_on_while_short_ones_keep_coming() -> None:
    runner = FakeModelRunner(num_slots=16, context_length=2100, max_batch=256)
    engine = make_engine(runner)
    rng = random.Random(3)
    long = submit(engine, make_sequence(LONG, 2))
    for _ in range(40):
        for _ in range(4):
            submit(engine, make_sequence([rng.randrange(1, 63) for _ in range(60)], 1))
        engine.step()
    assert not long.is_prefill


def test_copying_states_is_spread_over_steps_while_others_stream() -> None:
    """Four conversations come back at one moment, each with more to load than a step can spare."""
    runner = FakeModelRunner(num_slots=8, context_length=2200, max_batch=2200)
    engine = make_engine(runner, cache_bytes=2**20)
    prompts = [[1 + i] * 1900 for i in range(8)]
    for prompt in prompts:
        submit(engine, make_sequence(prompt, 1))
    run(engine)
    for i in range(8):
        submit(engine, make_sequence([20 + i] * 1900, 1))  # and take all the slots
    run(engine)
    for i in range(4):
        submit(engine, make_sequence([40 + i], 300))
    for _ in range(20):
        engine.step()
    before = runner.time
    engine.step()
    undisturbed = runner.time - before
    for prompt in prompts[:4]:
        submit(engine, make_sequence([*prompt, 5], 1))
    gaps = []
    while any(s.is_prefill for s in engine.scheduler.running) or len(engine.scheduler.waiting):
        before = runner.time
        engine.step()
        gaps.append(runner.time - before)
    assert engine.stats().num_memory_tokens_total >= 4 * 1900 - 10
    # Saving one and loading one, 0.0285 s each, and a step with its prompt.
    assert max(gaps) <= 3 * undisturbed + 2 * 0.0285
