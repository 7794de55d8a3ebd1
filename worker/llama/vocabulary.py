"""The vocabulary of a model: its tokens' pieces for the engine, its control tokens for the chat."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from worker.llama.library import llama_cpp
from worker.llama.tokenizer import Tokenizer

_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN


class LlamaVocabulary:
    """The model's own pieces, fetched once each; those of control tokens are empty, unless shown."""

    def __init__(self, model: Any, context_length: int | None = None) -> None:
        """`check_fits` refuses text that is certain to be longer than `context_length` tokens."""
        self.context_length = context_length
        self._shown: set[int] = set()
        self._vocab = model.vocab
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._pieces: dict[int, bytes] = {}
        self._attributes = [llama_cpp.llama_vocab_get_attr(self._vocab, token) for token in range(self.size)]
        self._ends = {t for t in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, t)}
        bos, eos = model.token_bos(), model.token_eos()
        self.bos = bos if bos != -1 and model.add_bos_token() else None
        self.bos_text, self.eos_text = self._text_or_none(bos), self._text_or_none(eos)
        self.stripping = frozenset(self._texts_with(llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP))
        self._tokenizer = Tokenizer(model, context_length)

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._fetch(token)
        return piece

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def add_ends(self, texts: Iterable[str]) -> None:
        """Control tokens at which an answer ends too, such as those that begin the next role."""
        wanted = frozenset(texts)
        self._ends |= {token for token in self._tokens_with(_CONTROL) if self._text(token) in wanted}

    def show(self, markers: Iterable[str]) -> None:
        """Control tokens in one of these texts are pieces of an answer, for others to read."""
        joined = "\0".join(markers)
        self._shown |= {
            token for token in self._tokens_with(_CONTROL) if (self._text(token) or "\0\0") in joined
        }
        self._pieces.clear()

    def tokenize(self, text: bytes, special: bool, *, continued: bool = False) -> list[int]:
        return self._tokenizer.tokenize(text, special, continued=continued)

    def check_fits(self, text: bytes) -> None:
        self._tokenizer.check_fits(text)

    def control_tokens(self) -> Sequence[str]:
        return self._texts_with(_CONTROL)

    def user_defined_tokens(self) -> Sequence[str]:
        return self._texts_with(llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _texts_with(self, attributes: int) -> list[str]:
        return [self._text(token) for token in self._tokens_with(attributes)]

    def _tokens_with(self, attributes: int) -> list[int]:
        return [token for token, has in enumerate(self._attributes) if has & attributes]

    def _text(self, token: int) -> str:
        return (llama_cpp.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def _text_or_none(self, token: int) -> str:
        return "" if token == -1 else self._text(token)

    def _fetch(self, token: int) -> bytes:
        shown = token in self._shown
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, shown)
            if length >= 0:
                return buffer.raw[:length]
            size = -length
