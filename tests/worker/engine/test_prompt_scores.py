"""How likely a prompt's own tokens were: all of them, however they are computed and whatever is cached."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest

from tests.worker.engine.fake_runner import (
    END,
    VOCABULARY_SIZE,
    FakeModelRunner,
    continuation,
    fetched,
    make_engine,
    make_sequence,
    next_token,
    run,
    submit,
    text_of,
)
from worker.engine.sequence import MAX_SCORED, Output, Sequence
from worker.protocol import TokenLogprob

LIKELY = 1 - math.log(VOCABULARY_SIZE - 1 + math.e)  # of the token whose logit is 1, where others have 0
PROMPT = [3, *continuation([3], 4), 1, 5, 9, 2, 6, *continuation([7], 20)]


def scored(prompt: SequenceOf[int], max_tokens: int = 0, num_top: int = 1) -> Sequence:
    sequence = make_sequence(prompt, max_tokens=max_tokens, logprobs=num_top)
    sequence.scores_prompt = True
    return sequence


def expected(tokens: SequenceOf[int]) -> list[float]:
    """Of each token but the first, of which nothing is known."""
    return [LIKELY - (next_token(tokens[:i]) != tokens[i]) for i in range(1, len(tokens))]


def check(logprobs: SequenceOf[TokenLogprob], tokens: SequenceOf[int]) -> None:
    assert [entry.token for entry in logprobs] == list(text_of(tokens))
    assert math.isnan(logprobs[0].logprob)
    assert logprobs[0].top == ()
    assert [entry.logprob for entry in logprobs[1:]] == pytest.approx(expected(tokens))
    best = [entry.top[0].token for entry in logprobs[1:]]
    assert best == [text_of([next_token(tokens[:i])]) for i in range(1, len(tokens))]


def output_of(sequence: Sequence) -> Output:
    output = fetched(sequence)
    assert output is not None
    return output


@pytest.mark.parametrize("max_batch", [1, 7, 100])
def test_every_token_of_a_prompt_is_scored_however_it_is_cut(max_batch: int) -> None:
    engine = make_engine(FakeModelRunner(max_batch=max_batch))
    sequence = submit(engine, scored(PROMPT))
    run(engine)
    output = output_of(sequence)
    check(output.logprobs, PROMPT)
    assert (output.text, output.finish_reason, sequence.num_output) == ("", "length", 0)


def test_what_is_cached_is_scored_again_and_serves_others() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    for _ in range(2):
        sequence = submit(engine, scored(PROMPT))
        run(engine)
        check(output_of(sequence).logprobs, PROMPT)
        assert sequence.num_cached == 0
    plain = submit(engine, make_sequence(PROMPT, max_tokens=1))
    run(engine)
    assert plain.num_cached == len(PROMPT) - 1


def test_the_text_that_follows_is_scored_after_the_prompt() -> None:
    engine = make_engine()
    sequence = submit(engine, scored(PROMPT, max_tokens=3))
    run(engine)
    output = output_of(sequence)
    assert output.text == text_of(continuation(PROMPT, 3))
    check(output.logprobs, PROMPT + continuation(PROMPT, 3))


def test_the_token_that_ends_the_text_is_scored_too() -> None:
    def end_next(tokens: SequenceOf[int]) -> int:
        return END if len(tokens) == len(PROMPT) else next_token(tokens)

    engine = make_engine(FakeModelRunner(next_token=end_next))
    sequence = submit(engine, scored(PROMPT, max_tokens=3))
    run(engine)
    output = output_of(sequence)
    assert (output.text, output.finish_reason) == ("", "stop")
    assert len(output.logprobs) == len(PROMPT) + 1
    assert output.logprobs[-1].logprob == pytest.approx(LIKELY)


def test_several_are_scored_beside_others_that_write() -> None:
    runner = FakeModelRunner(num_slots=4, context_length=300, max_batch=256)
    engine = make_engine(runner)
    writing = submit(engine, make_sequence([1, 2, 3], max_tokens=60))
    engine.step()
    prompts = [[i, *continuation([i], 150)] for i in (4, 5, 6)]
    sequences = [submit(engine, scored(prompt, max_tokens=i)) for i, prompt in enumerate(prompts)]
    run(engine)
    for i, (sequence, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        check(output_of(sequence).logprobs, prompt + continuation(prompt, i))
    assert output_of(writing).text == text_of(continuation([1, 2, 3], 60))
    rows = [sum(chunk.num_logits for chunk in batch) for batch in runner.batches]
    assert MAX_SCORED - 4 <= max(rows) <= MAX_SCORED + 4, "memory for logits is bounded"


def test_a_prompt_whose_batch_failed_is_scored_from_its_start() -> None:
    runner = FakeModelRunner(num_slots=2, max_batch=8, recurrent=True)
    engine = make_engine(runner)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    sequence = submit(engine, scored(prompt))
    engine.step()
    runner.poison = 63
    submit(engine, make_sequence([63], max_tokens=1))
    run(engine)
    check(output_of(sequence).logprobs, prompt)


def test_one_that_gave_way_is_scored_from_its_start_and_told_once() -> None:
    engine = make_engine(FakeModelRunner(num_slots=2, max_batch=4, context_length=200))
    sequences = []
    for prompt in (PROMPT, PROMPT[::-1]):
        sequence = scored(prompt, max_tokens=2)
        sequence.client = "many"
        sequences.append(submit(engine, sequence))
    engine.step()
    submit(engine, make_sequence([8] * 3, max_tokens=2, client="one"))
    run(engine)
    for sequence, prompt in zip(sequences, (PROMPT, PROMPT[::-1]), strict=True):
        check(output_of(sequence).logprobs, prompt + continuation(prompt, 2))


def test_the_oracle_is_a_distribution() -> None:
    row = np.zeros(VOCABULARY_SIZE)
    row[5] = 1
    assert pytest.approx(math.log(math.e / np.exp(row).sum())) == LIKELY
