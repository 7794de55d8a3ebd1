"""Tokens that a constraint leaves no choice about: computed at once, counted, and never sampled."""

from __future__ import annotations

import random

import pytest

from tests.worker.engine.fake_runner import (
    END,
    FakeModelRunner,
    Forcing,
    NextToken,
    continuation,
    fetched,
    forced_continuation,
    make_engine,
    make_sequence,
    next_token,
    repeating_token,
    run,
    submit,
    text_of,
)
from worker.engine.engine import Engine
from worker.engine.sequence import Output, State
from worker.protocol import InvalidRequest


def test_forced_tokens_take_no_step_of_their_own() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    constraint = Forcing()
    sequence = submit(engine, make_sequence([1, 2], max_tokens=30, constraint=constraint))
    run(engine)
    expected = forced_continuation([1, 2], 30)
    assert fetched(sequence) == Output(text_of(expected), finish_reason="length")
    stats = engine.stats()
    assert 0 < stats.num_forced_tokens_total <= constraint.num_forced
    assert stats.num_output_tokens_total == sequence.num_output == 30
    assert stats.num_steps_total == 30 - stats.num_forced_tokens_total
    assert stats.num_prompt_tokens_total == 2


def test_what_comes_first_is_computed_with_the_prompt() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    sequence = submit(engine, make_sequence([1, 2], max_tokens=4, constraint=Forcing([7, 8, 7])))
    engine.step()
    assert [list(chunk.tokens) for chunk in runner.batches[0]] == [[1, 2, 7, 8, 7]]
    assert sequence.num_output == 4
    assert engine.stats().num_prompt_tokens_total == 2
    run(engine)


def test_no_time_of_what_is_forced_before_there_is_a_slot_is_negative() -> None:
    engine = make_engine()
    sequence = submit(engine, make_sequence([1, 2], max_tokens=4, constraint=Forcing([7, 8, 7])))
    run(engine)
    assert 0 < sequence.arrived <= sequence.admitted <= sequence.first_token <= sequence.ended


def test_a_prompt_that_is_known_is_cached_and_what_is_forced_after_it_is_no_part_of_it() -> None:
    engine = make_engine()
    for _ in range(2):
        again = submit(engine, make_sequence([1, 2, 3], max_tokens=6, constraint=Forcing([7, 8, 7])))
        run(engine)
    expected = [7, 8, 7, *forced_continuation([1, 2, 3, 7, 8, 7], 3)]
    assert fetched(again) == Output(text_of(expected), finish_reason="length")
    assert again.num_cached == 3
    assert engine.stats().num_cached_tokens_total == 3
    assert engine.stats().num_prompt_tokens_total == 3


def test_an_answer_that_leaves_no_choice_computes_nothing() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    constraint = Forcing([7, 8])
    constraint.is_complete = True
    sequence = submit(engine, make_sequence([1, 2], constraint=constraint))
    run(engine)
    assert fetched(sequence) == Output(text_of([7, 8]), finish_reason="stop")
    assert runner.batches == []


def test_a_complete_answer_ends_without_a_step_for_its_end() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    first = next(i for i in range(1, 60) if all(token % 3 for token in continuation([i], 3)))
    whole = continuation([first], 3)
    assert whole[-1] not in whole[:-1]
    sequence = submit(engine, make_sequence([first], max_tokens=30, constraint=Forcing(last=whole[-1])))
    run(engine)
    assert fetched(sequence) == Output(text_of(whole), finish_reason="stop")
    assert engine.stats().num_steps_total == 3


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_the_limit_may_fall_among_forced_tokens(max_tokens: int) -> None:
    engine = make_engine()
    constraint = Forcing([7, 8, 7])
    sequence = submit(engine, make_sequence([1, 2], max_tokens=max_tokens, constraint=constraint))
    run(engine)
    expected = [7, 8, 7, *forced_continuation([1, 2, 7, 8, 7], max_tokens)][:max_tokens]
    assert fetched(sequence) == Output(text_of(expected), finish_reason="length")
    assert engine.stats().num_output_tokens_total == max_tokens


def test_a_stop_string_among_forced_tokens_ends_the_sequence_there() -> None:
    engine = make_engine()
    constraint = Forcing([7, 8, 9, 7])
    sequence = submit(engine, make_sequence([1, 2], stop=("HI",), constraint=constraint))
    run(engine)
    assert fetched(sequence) == Output("G", finish_reason="stop", stop="HI")


def test_an_end_that_is_forced_is_the_end() -> None:
    engine = make_engine()
    sequence = submit(engine, make_sequence([1, 2], constraint=Forcing([7, END, 8])))
    run(engine)
    assert fetched(sequence) == Output("G", finish_reason="stop")


@pytest.mark.parametrize("others", [(), (5, 6)])
def test_more_than_a_batch_is_computed_in_several(others: tuple[int, ...]) -> None:
    runner = FakeModelRunner(num_slots=3, context_length=200, max_batch=16)
    engine = make_engine(runner)
    long = [1 + i % 60 for i in range(50)]
    beside = [submit(engine, make_sequence([i], max_tokens=40)) for i in others]
    engine.step()
    sequence = submit(engine, make_sequence([1, 2], max_tokens=51, constraint=Forcing(long)))
    run(engine)
    assert max(sum(len(chunk.tokens) for chunk in batch) for batch in runner.batches) <= 16
    assert fetched(sequence) == Output(
        text_of([*long, *forced_continuation([1, 2, *long], 1)]), finish_reason="length"
    )
    for i, other in zip(others, beside, strict=True):
        assert fetched(other) == Output(text_of(continuation([i], 40)), finish_reason="length")


def test_log_probabilities_are_sampled_one_by_one() -> None:
    engine = make_engine()
    sequence = submit(engine, make_sequence([1, 2], max_tokens=5, constraint=Forcing([7]), logprobs=0))
    run(engine)
    output = fetched(sequence)
    assert output is not None
    assert len(output.logprobs) == 5
    assert engine.stats().num_forced_tokens_total == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_a_constraint_that_fails_ends_its_own_sequence(at_once: bool) -> None:
    class Failing(Forcing):
        def forced(self) -> list[int]:
            if at_once or self.num_accepted == 3:
                raise InvalidRequest("No further.")
            return []

        num_accepted = 0

        def accept(self, token: int) -> None:
            self.num_accepted += 1

    engine = make_engine()
    failing = submit(engine, make_sequence([1, 2], constraint=Failing()))
    other = submit(engine, make_sequence([5]))
    run(engine)
    output = fetched(failing)
    assert output is not None
    assert str(output.error) == "No further."
    assert fetched(other) == Output(text_of(continuation([5], 8)), finish_reason="length")
    assert engine.alive


@pytest.mark.parametrize("next_token", [next_token, repeating_token])
def test_drafts_beside_forced_tokens_change_nothing(next_token: NextToken) -> None:
    """Alone, a sequence drafts as well; what is forced may agree with the draft, end in it, or go beyond."""
    for first in range(1, 40):
        runner = FakeModelRunner(context_length=100, next_token=next_token)
        engine = make_engine(runner)
        prompt = [first, 2, 3]
        sequence = submit(engine, make_sequence(prompt, max_tokens=60, constraint=Forcing()))
        while sequence.state is not State.FINISHED:
            engine.step()
            engine.check_integrity()
        expected = text_of(forced_continuation(prompt, 60, next_token))
        assert fetched(sequence) == Output(expected, finish_reason="length")
    if next_token is repeating_token:
        assert engine.stats().num_accepted_tokens_total > 0


@pytest.mark.parametrize("copies_are_free", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_random_mixtures_keep_slots_and_outputs_right(seed: int, copies_are_free: bool) -> None:
    rng = random.Random(seed)
    engine = make_engine(FakeModelRunner(5, 80, 12, copies_are_free, repeating_token))
    submitted = []
    for _ in range(600):
        if rng.random() < 0.2:
            prompt = [rng.randrange(1, 63) for _ in range(rng.randrange(1, 30))]
            is_forced = rng.random() < 0.5
            constraint = Forcing() if is_forced else None
            sequence = make_sequence(prompt, rng.randrange(1, 80 - len(prompt)), constraint=constraint)
            engine.submit(sequence)
            submitted.append((prompt, is_forced, sequence))
        step(engine)
    run(engine)
    for prompt, is_forced, sequence in submitted:
        alone = forced_continuation if is_forced else continuation
        expected = text_of(alone(prompt, sequence.max_tokens, repeating_token))
        output = fetched(sequence)
        assert output is not None
        assert output.text == expected
    assert engine.stats().num_forced_tokens_total > 100


def step(engine: Engine) -> None:
    engine.drain()
    engine.step()
    engine.check_integrity()
