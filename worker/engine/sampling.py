"""From logits to tokens: one numpy pass for the many, a small exact one for each of the others.

Distributions are llama.cpp's own: bias and penalties, then top_k, top_p, min_p, then temperature.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from worker.engine.detokenizer import Vocabulary
from worker.protocol import InvalidRequest, SamplingParams, TokenLogprob

Row = npt.NDArray[np.float32]

# Block sums make a cumulative sum over the vocabulary cheap, and keep float32 exact enough.
BLOCK = 256
_ONES = np.ones(BLOCK, np.float32)
# After so many draws that top_p or min_p refuse, sorting is cheaper than to go on.
MAX_REJECTIONS = 12
# Below this a softmax in float32 is all in one token, or overflows.
MIN_TEMPERATURE = 1e-5


class Constraint(Protocol):
    """What may come next, such as a grammar. Raises InvalidRequest where it cannot go on."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow but the end."""
        ...

    def allows(self, token: int) -> bool: ...

    def mask(self, row: Row) -> None:
        """Set the logits of all forbidden tokens to -inf."""
        ...

    def accept(self, token: int) -> None: ...

    def forced(self) -> list[int]:
        """The tokens that must come next, as good as accepted; none where there is a choice."""
        ...


# Takes a row of logits and a number drawn from [0, 1); answers a token. For samplers that only llama.cpp has.
Chooser = Callable[[Row], int]


@dataclass(slots=True, eq=False)
class Sampler:
    """How one sequence is sampled, and what it must remember between tokens."""

    params: SamplingParams
    constraint: Constraint | None = None
    chooser: Chooser | None = None
    processor: Callable[[Row], Row] | None = None
    last_n: int = 64
    recent: list[int] = field(default_factory=list)
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        if self.params.seed is not None:
            self._random.seed(self.params.seed % 2**64)  # random takes a negative seed for its positive

    def draw(self) -> float:
        return self._random.random()

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature < MIN_TEMPERATURE

    @property
    def is_plain(self) -> bool:
        """Whether the row's softmax at some temperature is all there is to it."""
        p = self.params
        no_cut = p.top_k <= 0 and p.top_p >= 1 and p.min_p <= 0
        return (self.is_greedy or no_cut) and self._leaves_logits_alone and p.logprobs is None

    @property
    def has_penalties(self) -> bool:
        p = self.params
        return p.repeat_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0

    def forced(self) -> list[int]:
        """Tokens that need not be sampled; none where log probabilities are wanted, which sampling gives."""
        if self.constraint is None or self.params.logprobs is not None:
            return []
        tokens = self.constraint.forced()
        self.remember(tokens)
        return tokens

    def remember(self, tokens: Iterable[int]) -> None:
        """For the penalties."""
        if self.has_penalties:
            self.recent = [*self.recent, *tokens][-self.last_n :]

    @property
    def _leaves_logits_alone(self) -> bool:
        return not (
            self.params.logit_bias
            or self.has_penalties
            or self.constraint is not None
            or self.chooser is not None
            or self.processor is not None
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    token: int
    logprob: TokenLogprob | None = None


def sample(
    logits: npt.NDArray[np.float32], samplers: Sequence[Sampler], vocabulary: Vocabulary
) -> list[Sampled | Exception]:
    """One token for each row, or what kept that row from having one; overwrites `logits`."""
    sampled: list[Sampled | Exception | None] = [None] * len(samplers)
    greedy = [i for i, s in enumerate(samplers) if s.is_plain and s.is_greedy]
    for i, token in zip(greedy, argmax_rows(logits, greedy), strict=True):
        sampled[i] = Sampled(token)
    return [
        done if done is not None else _try_row(logits[i], samplers[i], vocabulary)
        for i, done in enumerate(sampled)
    ]


def argmax_rows(logits: npt.NDArray[np.float32], rows: list[int]) -> list[int]:
    if len(rows) == len(logits):
        tokens: list[int] = logits.argmax(axis=1).tolist()
        return tokens
    return [int(logits[i].argmax()) for i in rows]


def _try_row(row: Row, sampler: Sampler, vocabulary: Vocabulary) -> Sampled | Exception:
    """A row at a time, because one row stays in the core's own cache, and one's failure is its own."""
    try:
        if sampler.is_plain:
            return Sampled(draw(row, sampler.params.temperature, sampler.draw()))
        return sample_row(row, sampler, vocabulary)
    except Exception as error:
        return error


def draw(row: Row, temperature: float, number: float) -> int:
    """The token at `number` (in [0, 1)) of the cumulative softmax; overwrites `row`."""
    return pick(_weights(row, temperature, out=row), number)


def pick(weights: Row, number: float) -> int:
    """The token at `number` (in [0, 1)) of the weights' cumulative sum."""
    whole = len(weights) // BLOCK * BLOCK
    sums = np.append(weights[:whole].reshape(-1, BLOCK) @ _ONES, weights[whole:].sum())
    cumulative = sums.cumsum(dtype=np.float64)
    target = number * cumulative[-1]
    block = int(cumulative.searchsorted(target, side="right"))
    before = cumulative[block - 1] if block else 0.0
    inside = weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    # Rounding may leave the target just past the block's end: then its last possible token.
    index = int(inside.searchsorted(target - before, side="right"))
    return block * BLOCK + min(index, _last_positive(inside))


def _weights(row: Row, temperature: float, out: Row | None = None) -> Row:
    """The softmax's numerators, the best token's being 1."""
    weights: Row = np.subtract(row, row.max(), out=out)
    if temperature != 1:
        weights /= temperature
    np.exp(weights, out=weights)
    return weights


def sample_row(row: Row, sampler: Sampler, vocabulary: Vocabulary) -> Sampled:
    """One token for a sequence with anything beyond a temperature."""
    params = sampler.params
    normalizer = log_normalizer(row) if params.logprobs is not None else 0.0
    raw = row.copy() if params.logprobs is not None else row
    if sampler.processor is not None:
        row = sampler.processor(row)
    apply_bias(row, params)
    if sampler.has_penalties:
        apply_penalties(row, sampler)
    token = _choose_allowed(row, sampler)
    sampler.remember([token])
    if params.logprobs is None:
        return Sampled(token)
    return Sampled(token, token_logprob(raw, normalizer, token, params.logprobs, vocabulary))


def _choose_allowed(row: Row, sampler: Sampler) -> int:
    constraint = sampler.constraint
    if constraint is None:
        return _choose(row, sampler)
    # Checking one token is cheap, masking all is not. Drawing again among the allowed ones when the first
    # is refused gives the same distribution as masking always. But a chooser learns from what it draws.
    token = None if sampler.chooser is not None else _choose(row, sampler)
    if token is None or not constraint.allows(token):
        constraint.mask(row)
        if not np.isfinite(row.max()):
            raise InvalidRequest("The grammar comes to a dead end: no token of the model may follow.")
        token = _choose(row, sampler)
    constraint.accept(token)
    return token


def _choose(row: Row, sampler: Sampler) -> int:
    if sampler.chooser is not None:
        return sampler.chooser(row)
    if sampler.is_greedy:
        return int(row.argmax())
    params = sampler.params
    if params.top_k <= 0 and (params.top_p < 1 or params.min_p <= 0):
        token = _choose_by_rejection(row, sampler)
        if token is not None:
            return token
    tokens, logits = candidates(row, params)
    weights = np.exp((logits - logits[0]).astype(np.float64) / params.temperature)
    cumulative = weights.cumsum()
    index = int(cumulative.searchsorted(sampler.draw() * cumulative[-1], side="right"))
    return int(tokens[min(index, _last_positive(cumulative))])


def _choose_by_rejection(row: Row, sampler: Sampler) -> int | None:
    """Draw from the whole softmax until top_p and min_p allow the token: exact, and nothing is sorted."""
    params = sampler.params
    tempered = _weights(row, params.temperature)
    if params.top_p >= 1 and params.min_p <= 0:
        return pick(tempered, sampler.draw())
    weights = tempered if params.temperature == 1 else _weights(row, 1)
    nucleus = params.top_p * float(weights.sum(dtype=np.float64))
    for _ in range(MAX_REJECTIONS):
        token = pick(tempered, sampler.draw())
        if is_allowed(weights, token, nucleus, params):
            return token
    return None


def is_allowed(weights: Row, token: int, nucleus: float, params: SamplingParams) -> bool:
    """Whether the tokens before this one hold less than the nucleus, and it is no less likely than min_p."""
    weight = weights[token]
    if weight < params.min_p:
        return False
    return params.top_p >= 1 or float(weights @ (weights > weight).astype(np.float32)) < nucleus


def candidates(row: Row, params: SamplingParams) -> tuple[npt.NDArray[np.intp], Row]:
    """Tokens that top_k, top_p and min_p leave, best first, with their logits."""
    if params.top_k <= 0 and params.top_p >= 1:
        floor = math.log(params.min_p) if params.min_p > 0 else -math.inf
        return _sorted_where(row, row >= row.max() + floor)
    tokens, logits = _top_k(row, params.top_k if params.top_k > 0 else len(row))
    if params.top_p < 1:
        weights = np.exp((logits - logits[0]).astype(np.float64)).cumsum()
        keep = int(weights.searchsorted(params.top_p * weights[-1], side="left")) + 1
        tokens, logits = tokens[:keep], logits[:keep]
    if params.min_p > 0:
        keep = int((logits >= logits[0] + math.log(params.min_p)).sum())
        tokens, logits = tokens[:keep], logits[:keep]
    return tokens, logits


# Sorting 50,000 logits takes longer than everything else about a token. So only those are sorted that lie
# within the first of these distances from the best that turns out to hold enough: the result is the same.
DISTANCES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 20, math.inf)


def _top_k(row: Row, top_k: int) -> tuple[npt.NDArray[np.intp], Row]:
    best = row.max()
    for distance in DISTANCES:
        near = row >= best - distance
        if np.count_nonzero(near) >= top_k or math.isinf(distance):
            break
    tokens, logits = _sorted_where(row, near)
    return tokens[:top_k], logits[:top_k]


def _sorted_where(row: Row, mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], Row]:
    tokens = np.flatnonzero(mask)
    logits = row[tokens]
    order = np.argsort(-logits)
    return tokens[order], logits[order]


def _last_positive(cumulative: npt.NDArray[np.float64]) -> int:
    """The last entry that adds to a cumulative sum, so that rounding never picks an impossible one."""
    return int(cumulative.searchsorted(cumulative[-1], side="left"))


def apply_bias(row: Row, params: SamplingParams) -> None:
    for token, bias in params.logit_bias.items():
        row[token] += bias


def apply_penalties(row: Row, sampler: Sampler) -> None:
    """llama.cpp's penalties over the last tokens that were sampled."""
    params = sampler.params
    for token, count in Counter(sampler.recent).items():
        logit = float(row[token])
        logit = logit * params.repeat_penalty if logit <= 0 else logit / params.repeat_penalty
        row[token] = logit - count * params.frequency_penalty - params.presence_penalty


def log_normalizer(row: Row) -> float:
    best = float(row.max())
    return best + math.log(float(np.exp(row - best).sum(dtype=np.float64)))


def token_logprob(
    row: Row, normalizer: float, token: int, num_top: int, vocabulary: Vocabulary
) -> TokenLogprob:
    """The token's log probability under the model itself, with the most likely ones in its place."""

    def entry(index: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        piece = vocabulary.piece(index)
        return TokenLogprob(piece.decode("utf-8", "replace"), float(row[index]) - normalizer, piece, top)

    top: Any = _top_k(row, num_top)[0] if num_top > 0 else ()
    return entry(token, tuple(entry(int(index)) for index in top))
