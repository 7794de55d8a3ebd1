"""Finds the tokens that a piece of the answer was written with, among those of thoughts and calls."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable

from worker.protocol import TokenLogprob


class ContentLogprobs:
    """Log probabilities of all tokens, in order, until the text at their position is known to be content."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0
        self._tokens: deque[tuple[int, int, TokenLogprob]] = deque()  # with the characters it has a part in

    def add(self, logprobs: Iterable[TokenLogprob]) -> None:
        for logprob in logprobs:
            start = self._num_chars
            self._num_chars += len(self._decoder.decode(logprob.bytes))
            begins_character = bool(self._decoder.getstate()[0])
            # A token without text goes with the character behind it.
            end = max(self._num_chars + begins_character, start + 1)
            self._tokens.append((start, end, logprob))

    def take(self, start: int, end: int) -> tuple[TokenLogprob, ...]:
        """Those with a part in the characters from `start` to `end`; what was before is no content."""
        taken = []
        while self._tokens and self._tokens[0][0] < end:
            _, token_end, logprob = self._tokens.popleft()
            if token_end > start:
                taken.append(logprob)
        return tuple(taken)

    def take_rest(self) -> tuple[TokenLogprob, ...]:
        """Those without any text, at the end."""
        rest = tuple(logprob for _, _, logprob in self._tokens)
        self._tokens.clear()
        return rest
