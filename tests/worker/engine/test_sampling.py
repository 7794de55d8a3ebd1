"""Sampling: exact distributions against the plain definition, and what must repeat or be impossible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.worker.engine.fake_runner import VOCABULARY_SIZE, Forcing, LetterVocabulary
from worker.engine.sampling import (
    Row,
    Sampled,
    Sampler,
    apply_penalties,
    candidates,
    draw,
    is_allowed,
    sample,
    sample_row,
)
from worker.protocol import InvalidRequest, SamplingParams


def random_row(seed: int, size: int = 5000, spread: float = 3.0) -> Row:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def softmax(row: Row, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    result: npt.NDArray[np.float64] = weights / weights.sum()
    return result


def plain_candidates(row: Row, params: SamplingParams) -> list[int]:
    """The definition: sort everything, then cut."""
    order = np.argsort(-row, kind="stable")
    if params.top_k > 0:
        order = order[: params.top_k]
    kept = softmax(row[order])
    if params.top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(kept), params.top_p)) + 1]
    probabilities = softmax(row[order])
    return [int(t) for t in order[probabilities >= params.min_p * probabilities[0] * (1 - 1e-6)]]


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("top_k", [0, 1, 40, 3000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_candidates_are_those_of_the_plain_definition(
    spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    for seed in range(5):
        row = random_row(seed, spread=spread)
        tokens, logits = candidates(row, params)
        expected = plain_candidates(row, params)
        # Rounding may move the border by one.
        assert abs(len(tokens) - len(expected)) <= 1
        shared = min(len(tokens), len(expected))
        assert logits[:shared].tolist() == row[expected[:shared]].tolist()
        assert row[tokens].tolist() == logits.tolist()


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
@pytest.mark.parametrize(("top_p", "min_p"), [(0.95, 0.0), (0.5, 0.0), (1.0, 0.1), (0.9, 0.05)])
def test_rejection_allows_what_the_plain_definition_allows(spread: float, top_p: float, min_p: float) -> None:
    params = SamplingParams(top_p=top_p, min_p=min_p)
    row = random_row(6, 1000, spread)
    weights = np.exp(row - row.max())
    nucleus = top_p * float(weights.sum(dtype=np.float64))
    allowed = {token for token in range(1000) if is_allowed(weights, token, nucleus, params)}
    assert len(allowed ^ set(plain_candidates(row, params))) <= 1


def test_an_unlikely_nucleus_is_found_all_the_same() -> None:
    """At a high temperature nearly every draw is refused."""
    row = np.zeros(5000, np.float32)
    row[77] = 9.0
    for seed in range(20):
        sampler = Sampler(SamplingParams(seed=seed, temperature=50.0, top_p=0.1))
        assert sample_row(row.copy(), sampler, LetterVocabulary()).token == 77


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("size", [100, 256, 5000])
def test_draw_inverts_the_cumulative_softmax(temperature: float, size: int) -> None:
    row = random_row(1, size)
    cumulative = np.cumsum(softmax(row, temperature))
    for number in np.random.default_rng(2).random(300):
        token = draw(row.copy(), temperature, float(number))
        before = cumulative[token - 1] if token else 0.0
        assert before - 1e-5 <= number <= cumulative[token] + 1e-5


def test_draw_never_picks_the_impossible() -> None:
    row = np.full(1000, -np.inf, np.float32)
    row[[3, 700]] = 0
    for number in (0.0, 0.25, 0.4999999, 0.5, 0.75, math.nextafter(1.0, 0.0)):
        assert draw(row.copy(), 1.0, number) == (3 if number < 0.5 else 700)


def test_a_batch_samples_as_each_row_would_alone() -> None:
    params = [
        SamplingParams(temperature=0),
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.7, top_p=0.9),
        SamplingParams(seed=3, temperature=1.5),
        SamplingParams(temperature=0, logprobs=2),
    ]
    rows = np.stack([random_row(i, VOCABULARY_SIZE) for i in range(len(params))])
    together = sample(rows.copy(), [Sampler(p) for p in params], LetterVocabulary())
    alone = [
        sample(rows[i : i + 1].copy(), [Sampler(p)], LetterVocabulary())[0] for i, p in enumerate(params)
    ]
    assert together == alone


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 5}, {"logprobs": 1}])
def test_the_smallest_temperatures_take_the_best_token(options: dict[str, Any]) -> None:
    row = random_row(3, VOCABULARY_SIZE)
    for temperature in (1e-5, 1e-6, 1e-50, 5e-324):
        sampler = Sampler(SamplingParams(temperature=temperature, **options))
        [sampled] = sample(row.copy()[None], [sampler], LetterVocabulary())
        assert isinstance(sampled, Sampled)
        assert sampled.token == row.argmax()


def test_a_row_without_a_possible_token_fails_by_itself() -> None:
    rows = np.stack([random_row(0, VOCABULARY_SIZE), np.full(VOCABULARY_SIZE, np.nan, np.float32)])
    good, bad = sample(rows, [Sampler(SamplingParams(seed=1)) for _ in rows], LetterVocabulary())
    assert isinstance(good, Sampled)
    assert isinstance(bad, Exception)


class OnlyUpTo(Forcing):
    """A constraint that forbids all tokens from `end` on, and remembers what it accepted."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end, self.accepted = end, list[int]()

    def allows(self, token: int) -> bool:
        return token < self.end

    def mask(self, row: Row) -> None:
        row[self.end :] = -np.inf

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_a_constraint_that_leaves_nothing_is_an_error_of_the_request(options: dict[str, Any]) -> None:
    constraint = OnlyUpTo(0)
    sampler = Sampler(SamplingParams(**options), constraint)
    [failed] = sample(random_row(1, VOCABULARY_SIZE)[None], [sampler], LetterVocabulary())
    assert isinstance(failed, InvalidRequest)
    assert constraint.accepted == []


def test_a_chooser_that_learns_from_its_draws_sees_only_what_is_allowed() -> None:
    drawn: list[int] = []

    def choose(row: Row) -> int:
        drawn.append(int(row.argmax()))
        return drawn[-1]

    constraint = OnlyUpTo(5)
    row = np.arange(VOCABULARY_SIZE, dtype=np.float32)
    sampler = Sampler(SamplingParams(), constraint, choose)
    assert sample_row(row, sampler, LetterVocabulary()).token == 4
    assert drawn == constraint.accepted == [4]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_seeds_repeat_and_no_seed_does_not(top_p: float) -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed, top_p=top_p))
        return [sample_row(random_row(i), sampler, LetterVocabulary()).token for i in range(20)]

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)  # equal by chance: less than 1 in 10**40


@pytest.mark.parametrize(
    "options", [{"top_k": 10}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_p": 0.8, "temperature": 1.5}]
)
def test_sampled_frequencies_follow_the_distribution(options: dict[str, Any]) -> None:
    row = random_row(5, 50, spread=1.0)
    params = SamplingParams(seed=1, **options)
    sampler = Sampler(params)
    counts = np.zeros(50)
    for _ in range(4000):
        counts[sample_row(row.copy(), sampler, LetterVocabulary()).token] += 1
    allowed = plain_candidates(row, params)
    expected = np.zeros(50)
    expected[allowed] = softmax(row[allowed], params.temperature)
    assert np.abs(counts / 4000 - expected).max() < 0.04  # five standard deviations


def test_penalties_count_what_was_sampled() -> None:
    sampler = Sampler(
        SamplingParams(repeat_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25), recent=[1, 1, 2]
    )
    row = np.array([1.0, 1.0, -1.0, 1.0], np.float32)
    apply_penalties(row, sampler)
    assert row.tolist() == [1.0, 0.5 - 0.5 - 0.5, -2.0 - 0.25 - 0.5, 1.0]


def test_penalties_forget_what_is_long_past() -> None:
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=10), last_n=2)
    row = np.array([4.0, 3.0, 2.0, 1.0], np.float32)
    tokens = [sample_row(row.copy(), sampler, LetterVocabulary()).token for _ in range(5)]
    assert tokens == [0, 1, 2, 0, 1]


def test_penalties_count_what_was_forced() -> None:
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=2.0), Forcing([3, 3]))
    assert sampler.forced() == [3, 3]
    row = np.array([0, 0, 1, 2], np.float32)
    assert sample_row(row, sampler, LetterVocabulary()).token == 2


def test_nothing_is_forced_where_every_tokens_log_probability_is_wanted() -> None:
    assert Sampler(SamplingParams(logprobs=0), Forcing([3])).forced() == []


def test_bias_moves_the_choice() -> None:
    row = np.array([4.0, 3.0, 2.0], np.float32)
    for bias, token in (({2: 3.0}, 2), ({0: -100.0}, 1)):
        sampler = Sampler(SamplingParams(temperature=0, logit_bias=bias))
        assert sample_row(row.copy(), sampler, LetterVocabulary()).token == token


def test_log_probabilities_are_the_models_own() -> None:
    row = random_row(3, VOCABULARY_SIZE)
    expected = np.log(softmax(row))
    sampler = Sampler(SamplingParams(temperature=0, logprobs=3, logit_bias={5: 100.0}))
    sampled = sample_row(row.copy(), sampler, LetterVocabulary())
    assert sampled.token == 5
    assert sampled.logprob is not None
    assert sampled.logprob.logprob == pytest.approx(expected[5], abs=1e-4)
    assert [t.bytes[0] - 64 for t in sampled.logprob.top] == np.argsort(-expected)[:3].tolist()
    assert [t.logprob for t in sampled.logprob.top] == pytest.approx(np.sort(expected)[::-1][:3], abs=1e-4)


class OnlyEven(Forcing):
    """A constraint that counts how often it had to mask everything."""

    def __init__(self) -> None:
        super().__init__()
        self.num_masked = 0
        self.accepted: list[int] = []

    def allows(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self, row: Row) -> None:
        self.num_masked += 1
        row[1::2] = -np.inf

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_constrained_sampling_has_the_masked_distribution() -> None:
    row = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    constraint = OnlyEven()
    sampler = Sampler(SamplingParams(seed=4), constraint=constraint)
    tokens = [sample_row(row.copy(), sampler, LetterVocabulary()).token for _ in range(4000)]
    assert set(tokens) == {0, 2}
    assert tokens.count(0) / 4000 == pytest.approx(0.25, abs=0.035)
    assert constraint.accepted == tokens
    assert constraint.num_masked == pytest.approx(4000 * 0.6, abs=160)
