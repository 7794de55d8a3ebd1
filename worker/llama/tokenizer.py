"""llama.cpp's tokenizer, with room for every text, and no time for those that are too long anyway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from worker.llama.deep_stack import with_deep_stack
from worker.llama.library import llama_cpp
from worker.protocol import ContextLengthExceeded

_SHORT = 2_000  # bytes that the stack of any thread is large enough for
_LONG = 200_000  # characters that a deep stack is large enough for, with half of it to spare
# Behind a word, pre-tokenizers begin anew; at a line's end all of them do.
_LINE_END = re.compile(r".*[^\W_](?=\n)", re.DOTALL)
_WORD_END = re.compile(r".*[^\W_](?=[\n ])", re.DOTALL)
_GUARD = b"\x01"  # a character that no token has but its own: nothing merges with it
_LIKELY_BYTES = 8  # most that a token has on average, in text that is not made for it
_SURPLUS = 1.25  # by how much a prompt's pieces have to exceed the context, for the cuts' sake
# SuperBPE groups digits by threes from the right, and at each looks at all that follow.
_DIGITS = re.compile(r"\d+")
_MANY_DIGITS = 300


class Tokenizer:
    """Of one model, for prompts of up to `context_length` tokens; None for any length."""

    def __init__(self, model: Any, context_length: int | None = None) -> None:
        self._vocab, self._context_length = model.vocab, context_length
        self._groups_digits = model.metadata().get("tokenizer.ggml.pre") == "superbpe"
        self._guard = self._tokens(_GUARD, False)
        size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._longest = max(
            len(llama_cpp.llama_vocab_get_text(self._vocab, token) or b" ") for token in range(size)
        )

    def tokenize(self, text: bytes, special: bool, *, continued: bool = False) -> list[int]:
        """Token ids; control tokens are recognised only with `special`.

        SentencePiece puts a space before text, though not before text that is `continued`.
        """
        tokens: list[int] = []
        for piece in self._pieces(text):
            tokens += self._continued(piece, special) if continued else self._tokens(piece, special)
            continued = True
        return tokens

    def check_fits(self, text: bytes) -> None:
        """Raises ContextLengthExceeded, with a lower bound, for a text that is certain not to fit.

        What is looked at is about as much as fits: how far beyond a text goes does not matter.
        """
        if self._context_length is None or len(text) <= self._context_length:
            return
        if len(text) > self._context_length * self._longest:
            raise self._too_long(-(-len(text) // self._longest))
        size = self._context_length * _LIKELY_BYTES
        num_tokens = 0
        if len(text) > size:
            for piece in _pieces(text, min(size, _LONG)):
                num_tokens += len(self.tokenize(piece, True))
                if num_tokens > self._context_length * _SURPLUS:
                    raise self._too_long(num_tokens)

    def _too_long(self, num_tokens: int) -> ContextLengthExceeded:
        assert self._context_length is not None
        return ContextLengthExceeded(self._context_length, num_tokens, at_least=True)

    def _pieces(self, text: bytes) -> Iterator[bytes]:
        for piece in _pieces(text, _LONG):
            if self._groups_digits and len(piece) > _MANY_DIGITS:
                yield from _digit_groups(piece)
            else:
                yield piece

    def _continued(self, text: bytes, special: bool) -> list[int]:
        guarded = self._tokens(_GUARD + text, special)
        num_guards = len(self._guard)
        return guarded[num_guards:] if guarded[:num_guards] == self._guard else self._tokens(text, special)

    def _tokens(self, text: bytes, special: bool) -> list[int]:
        if len(text) <= _SHORT:
            return self._call(text, special)
        return with_deep_stack(lambda: self._call(text, special))

    def _call(self, text: bytes, special: bool) -> list[int]:
        room = 1 << (len(text) + 16).bit_length()  # few sizes: ctypes makes a type for each
        while True:
            tokens = (llama_cpp.llama_token * room)()
            length = llama_cpp.llama_tokenize(self._vocab, text, len(text), tokens, room, False, special)
            if length >= 0:
                return tokens[:length]
            room = -length


def _digit_groups(text: bytes) -> Iterator[bytes]:
    """Cut within long numbers, where a group of three begins."""
    decoded = text.decode("utf-8", "surrogateescape")
    cuts = [0]
    for number in _DIGITS.finditer(decoded):
        first = number.start() + len(number[0]) % _MANY_DIGITS
        cuts += range(first, number.end(), _MANY_DIGITS) if len(number[0]) > _MANY_DIGITS else ()
    for start, stop in pairwise([*cuts, len(decoded)]):
        yield decoded[start:stop].encode("utf-8", "surrogateescape")


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Of up to `size` characters, cut where that changes no token if there is such a place."""
    if len(text) <= size:
        yield text
        return
    rest = text.decode("utf-8", "surrogateescape")
    start = 0
    while len(rest) - start > size:
        window = rest[start : start + size + 1]
        seam = _LINE_END.match(window) or _WORD_END.match(window)
        stop = start + (seam.end() if seam else size)
        yield rest[start:stop].encode("utf-8", "surrogateescape")
        start = stop
    yield rest[start:].encode("utf-8", "surrogateescape")
