"""The vocabulary as constraints need it, read from llama.cpp at once."""

from __future__ import annotations

import ctypes
from typing import Any

from worker.chat.constraint import TokenTable
from worker.llama.library import llama_cpp

_NO_TEXT = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    | llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
)
_lib = llama_cpp.llama_cpp._lib
# Tens of thousands of calls that let go of the GIL would wait for whoever is busy, each of them.
_to_piece = ctypes.PyDLL(_lib._name).llama_token_to_piece
_to_piece.argtypes = [
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_char_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_bool,
]
_to_piece.restype = ctypes.c_int32


def read_token_table(model: Any) -> TokenTable:
    """Every token of a loaded model's vocabulary; takes about 5 us for each."""
    vocab = model.vocab
    tokens: list[bytes] = []
    control: dict[str, int] = {}
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        piece = _piece(vocab, token)
        if llama_cpp.llama_vocab_get_attr(vocab, token) & _NO_TEXT:
            control[piece.decode("utf-8", "replace")] = token
            piece = b"\xff" + piece
        tokens.append(piece)
    return TokenTable(
        tokens,
        control,
        ends=[token for token in range(len(tokens)) if llama_cpp.llama_vocab_is_eog(vocab, token)],
        vocabulary_pointer=vocab,
        tokenize_pointer=ctypes.cast(_lib.llama_tokenize, ctypes.c_void_p).value or 0,
    )


def _piece(vocab: Any, token: int, size: int = 64) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    length = _to_piece(vocab, token, buffer, size, 0, True)
    return buffer.raw[:length] if length >= 0 else _piece(vocab, token, -length)
