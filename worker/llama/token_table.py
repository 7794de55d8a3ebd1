"""The vocabulary as constraints need it, read from llama.cpp at once."""

from __future__ import annotations

import ctypes
from typing import Any

from worker.chat.constraint import TokenTable
from worker.llama.library import llama_cpp
from worker.llama.vocabulary import LlamaVocabulary

_NO_TEXT = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    | llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
)
# Tens of thousands of calls that let go of the GIL would wait for whoever is busy, each of them.
_to_piece = ctypes.PyDLL(llama_cpp.llama_cpp._lib._name).llama_token_to_piece
_to_piece.argtypes = [
    *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool)
]
_to_piece.restype = ctypes.c_int32
# As `llama_tokenize`: vocabulary, text, its length, tokens, room for them, add_special, parse_special.
_Tokenize = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32),
    *(ctypes.c_bool, ctypes.c_bool),
)


def read_token_table(model: Any, vocabulary: LlamaVocabulary) -> TokenTable:
    """Every token of a loaded model; takes about 5 us for each."""
    tokens: list[bytes] = []
    control: dict[str, int] = {}
    for token in range(vocabulary.size):
        piece = _piece(model.vocab, token)
        if llama_cpp.llama_vocab_get_attr(model.vocab, token) & _NO_TEXT:
            control[piece.decode("utf-8", "replace")] = token
            piece = b"\xff" + piece
        tokens.append(piece)
    tokenize = _Tokenize(_tokenizing_with(vocabulary))
    return TokenTable(
        tokens,
        control,
        ends=[token for token in range(len(tokens)) if vocabulary.is_end(token)],
        vocabulary_pointer=model.vocab,
        tokenize_pointer=ctypes.cast(tokenize, ctypes.c_void_p).value or 0,
        owner=tokenize,
    )


def _piece(vocab: Any, token: int, size: int = 64) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    length = _to_piece(vocab, token, buffer, size, 0, True)
    return buffer.raw[:length] if length >= 0 else _piece(vocab, token, -length)


def _tokenizing_with(vocabulary: LlamaVocabulary) -> Any:
    """llama.cpp's own function would end the process with texts that its stack is too small for."""

    def tokenize(_: int, text: int, length: int, tokens: int, room: int, __: bool, special: bool) -> int:
        found = vocabulary.tokenize(ctypes.string_at(text, length), special)
        if len(found) > room:
            return -len(found)
        array = (ctypes.c_int32 * len(found))(*found)
        ctypes.memmove(tokens, array, ctypes.sizeof(array))
        return len(found)

    return tokenize
