"""From token pieces to text that may be shown: whole characters, and never a part of a stop string."""

from __future__ import annotations

import codecs
from typing import Protocol

from worker.protocol import TokenLogprob


class Vocabulary(Protocol):
    """What tokens look like; tests bring one without a model."""

    size: int

    def piece(self, token: int) -> bytes: ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the generation: end of text, of turn, of message."""
        ...


class Detokenizer:
    """One sequence's output: `push` pieces, take what is safe to show; `stopped_by` is the stop string met.

    Bytes that do not yet form a character wait; text that may begin a stop string waits too. Log
    probabilities come out together with the text of their token.
    """

    __slots__ = ("_decoder", "_held", "_logprobs", "_num_decoded", "_num_shown", "_stop", "stopped_by")

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self._logprobs: list[tuple[int, TokenLogprob]] = []  # each with the offset where its text starts
        self._num_decoded = 0
        self._num_shown = 0
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Add a token's piece; what may be shown now."""
        if logprob is not None:
            self._logprobs.append((self._num_decoded, logprob))
        return self._show(self._decoder.decode(piece), final=False)

    def flush(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What was held back, when nothing more will come; bytes without an end become U+FFFD."""
        return self._show(self._decoder.decode(b"", True), final=True)

    def _show(self, new: str, final: bool) -> tuple[str, tuple[TokenLogprob, ...]]:
        self._num_decoded += len(new)
        text = self._held + new
        if self._stop and not self.stopped:
            cut, stop = min(((text.find(s), s) for s in self._stop if s in text), default=(-1, None))
            if stop is not None:
                self.stopped_by = stop
                return self._release(text[:cut], "")
            if not final:
                safe = len(text) - _partial_stop(text, self._stop)
                return self._release(text[:safe], text[safe:])
        return ("", ()) if self.stopped else self._release(text, "", final)

    def _release(self, text: str, held: str, final: bool = False) -> tuple[str, tuple[TokenLogprob, ...]]:
        self._held = held
        self._num_shown += len(text)
        if not self._logprobs:
            return text, ()
        ready = [final or start < self._num_shown for start, _ in self._logprobs]
        count = ready.index(False) if False in ready else len(ready)
        shown, self._logprobs = self._logprobs[:count], self._logprobs[count:]
        return text, tuple(logprob for _, logprob in shown)


def _partial_stop(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stop)) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)
