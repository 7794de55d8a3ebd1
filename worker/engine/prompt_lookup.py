"""Drafts for a sequence that runs alone: what followed the last few tokens where they stood before.

Prompt lookup decoding (Saxena, 2023): no second model, and worth most where an answer repeats its prompt or
itself. A draft never changes what is sampled, it only lets one step sample several tokens.
"""

from __future__ import annotations

KEY = 3  # tokens that must be alike
# With the token that is due anyway four rows, which llama.cpp's kernels compute together: they take 1.6 times
# as long as one row, and three rows 1.8 times.
LENGTH = 3
# So a draft pays when more than a fifth of its tokens is taken. Where fewer are, only every eighth chance is
# tried, in case the text has changed.
MIN_ACCEPTANCE = 0.25
RETRY_EVERY = 8
SMOOTHING = 0.25


class PromptLookup:
    """One sequence's index of what it has said, and how well its drafts have done."""

    __slots__ = ("_acceptance", "_next", "_num_indexed", "_num_poor")

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}  # where the text goes on after its latest such key
        self._num_indexed = KEY
        self._acceptance = 1.0
        self._num_poor = 0

    def draft(self, tokens: list[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow `tokens`; none where nothing is alike."""
        for end in range(self._num_indexed, len(tokens)):
            self._next[tuple(tokens[end - KEY : end])] = end
        self._num_indexed = max(self._num_indexed, len(tokens))
        start = self._next.get(tuple(tokens[-KEY:]))
        if start is None:
            return []
        if self._acceptance < MIN_ACCEPTANCE:
            self._num_poor += 1
            if self._num_poor % RETRY_EVERY:
                return []
        period = len(tokens) - start  # a text that repeats itself goes round
        return [tokens[start + i % period] for i in range(min(limit, LENGTH))]

    def observe(self, num_drafted: int, num_accepted: int) -> None:
        """Learn from how many of a draft's tokens were sampled."""
        self._acceptance += SMOOTHING * (num_accepted / num_drafted - self._acceptance)
