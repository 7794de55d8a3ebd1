"""Pacing: what prompts may cost the streams beside them, and that they get on all the same."""

from __future__ import annotations

import pytest

from tests.worker.engine.fake_runner import FakeModelRunner, make_engine, make_sequence, run, submit
from worker.engine.engine import Engine
from worker.engine.scheduler import PrefillPacer
from worker.engine.sequence import Sequence


def duration_of_a_settled_step(engine: Engine, runner: FakeModelRunner) -> float:
    for _ in range(10):
        engine.step()
    started = runner.time
    engine.step()
    return runner.time - started


def start_streams(engine: Engine, number: int, max_tokens: int = 100) -> list[Sequence]:
    return [submit(engine, make_sequence([1 + i, 2, 3], max_tokens)) for i in range(number)]


@pytest.mark.parametrize("num_streams", [16, 24, 31])
def test_a_long_prompt_slows_running_streams_by_three_at_most(num_streams: int) -> None:
    runner = FakeModelRunner(num_slots=32, context_length=2200, max_batch=512)
    engine = make_engine(runner)
    streams = start_streams(engine, num_streams, max_tokens=2000)
    undisturbed = duration_of_a_settled_step(engine, runner)
    long = submit(engine, make_sequence([1 + i % 60 for i in range(2000)], max_tokens=2))
    durations = []
    while long.is_prefill:
        started, before = runner.time, [s.num_output for s in streams]
        engine.step()
        durations.append(runner.time - started)
        assert [s.num_output for s in streams] == [n + 1 for n in before]
    assert sorted(durations)[int(0.99 * len(durations))] <= 3 * undisturbed
    # Nor does it starve: at least half of the time that the streams can spare is used.
    assert sum(durations) / len(durations) > 1.8 * undisturbed


def test_a_burst_of_prompts_is_not_paced_by_the_one_that_came_first() -> None:
    engine = make_engine(FakeModelRunner(num_slots=32, context_length=200, max_batch=512))
    submit(engine, make_sequence([1, 2, 3], max_tokens=100))
    for _ in range(10):
        engine.step()
    burst = [submit(engine, make_sequence([2 + i] * 20, max_tokens=50)) for i in range(25)]
    engine.step()
    assert all(sequence.num_output == 1 for sequence in burst)


def test_a_burst_does_not_stop_a_third_that_streams() -> None:
    runner = FakeModelRunner(num_slots=32, context_length=200, max_batch=512)
    engine = make_engine(runner)
    start_streams(engine, 10)
    undisturbed = duration_of_a_settled_step(engine, runner)
    burst = [submit(engine, make_sequence([20 + i] * 20, max_tokens=50)) for i in range(20)]
    while any(sequence.is_prefill for sequence in burst):
        started, num_decodes = runner.time, sum(not s.is_prefill for s in engine.scheduler.running)
        engine.step()
        assert runner.time - started <= 3 * undisturbed * num_decodes / 10


def test_one_slow_step_does_not_close_the_gates() -> None:
    pacer = PrefillPacer()
    pacer.observe(16, 0, 0.100)
    for _ in range(5):
        pacer.observe(16, 50, 0.200)
    share = pacer.share(16)
    pacer.observe(16, 2, 0.600)  # somebody else had the cores
    assert pacer.share(16) >= share / 2


def test_what_a_step_takes_without_prompts_is_measured_and_not_guessed_from_a_narrower_one() -> None:
    engine = make_engine(FakeModelRunner(num_slots=32, context_length=200, max_batch=512))
    submit(engine, make_sequence([1, 2, 3], max_tokens=10))
    run(engine)  # all that is known is what one stream takes
    burst = [submit(engine, make_sequence([2 + i] * 20, max_tokens=50)) for i in range(32)]
    for _ in range(20):
        engine.step()
    assert all(sequence.num_output for sequence in burst)


def test_a_short_prompt_is_not_cut_where_a_step_ends() -> None:
    runner = FakeModelRunner(num_slots=8, context_length=200, max_batch=50)
    engine = make_engine(runner)
    for i in range(8):
        submit(engine, make_sequence([2 + i] * 20, max_tokens=1))
    run(engine)
    prompts = [len(c.tokens) for batch in runner.batches for c in batch if len(c.tokens) > 1]
    assert prompts == [20] * 8


def test_long_prompts_share_what_the_streams_can_spare() -> None:
    runner = FakeModelRunner(num_slots=32, context_length=500, max_batch=512)
    engine = make_engine(runner)
    start_streams(engine, 20)
    undisturbed = duration_of_a_settled_step(engine, runner)
    for i in range(5):
        submit(engine, make_sequence([30 + i] * 400, max_tokens=50))
    engine.step()  # learns the price of a prompt token
    started = runner.time
    engine.step()
    assert runner.time - started <= 3 * undisturbed
