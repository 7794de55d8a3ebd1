"""Vocabularies without weights: every byte, a few words, and the tokens that a test asks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import gguf

from worker.llama.library import llama_cpp
from worker.llama.vocabulary import LlamaVocabulary

_WORDS = ("the", "start", "end", "im", "user", "system", "tool", "call", "think", "in", "er")
_models: list[llama_cpp.Llama] = []  # kept: a model that is collected takes its vocabulary with it
_CONTROL, _USER_DEFINED = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED


def byte_pair_vocabulary(
    path: Path,
    control: Iterable[str],
    user_defined: Iterable[str] = (),
    *,
    pre: str = "gpt-2",
    model: str = "gpt2",
) -> LlamaVocabulary:
    """As GPT-2's, with another pre-tokenizer where `pre` says so."""
    plain, merges = _byte_pairs()
    writer = _writer(path, model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_merges(merges)
    _add_tokens(writer, [(token, gguf.TokenType.NORMAL) for token in plain], control, user_defined)
    return _loaded(writer, path)


def sentence_piece_vocabulary(
    path: Path, control: Iterable[str], user_defined: Iterable[str] = (), *, name: str = "test"
) -> LlamaVocabulary:
    """As Llama 2's; behind a control token, and at the beginning, text gets a space."""
    plain = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    pieces = [
        "\u2581",
        *(chr(code) for code in range(33, 127)),
        *_WORDS,
        *("\u2581" + word for word in _WORDS),
    ]
    plain += [(piece, gguf.TokenType.NORMAL) for piece in pieces]
    # What merging leads to has to be there as well, letter by letter.
    prefixes = {
        prefix + word[:n] for word in _WORDS for n in range(2, len(word)) for prefix in ("", "\u2581")
    }
    plain += [(piece, gguf.TokenType.NORMAL) for piece in sorted(prefixes - set(pieces))]
    writer = _writer(path, "llama", name)
    writer.add_add_space_prefix(True)
    _add_tokens(writer, [("<unk>", gguf.TokenType.UNKNOWN), *plain], control, user_defined)
    return _loaded(writer, path)


def _writer(path: Path, model: str, name: str = "test") -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(1 << 20)
    writer.add_tokenizer_model(model)
    return writer


def _add_tokens(
    writer: gguf.GGUFWriter,
    plain: list[tuple[str, gguf.TokenType]],
    control: Iterable[str],
    user_defined: Iterable[str],
) -> None:
    special = [(text, _CONTROL) for text in control] + [(text, _USER_DEFINED) for text in user_defined]
    given = {text for text, _ in special}
    tokens = [token for token in plain if token[0] not in given] + special
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_bos_token_id(len(tokens) - len(special))
    writer.add_add_bos_token(False)


def _loaded(writer: gguf.GGUFWriter, path: Path) -> LlamaVocabulary:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return load(path)


def load(path: Path, context_length: int | None = None) -> LlamaVocabulary:
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    _models.append(model)
    return LlamaVocabulary(model._model, context_length=context_length)


def _byte_pairs() -> tuple[list[str], list[str]]:
    """GPT-2's letters for the 256 bytes, and words with the merges that lead to them."""
    letters = _byte_letters()
    tokens, merges = list(letters), []
    for word in _WORDS:
        for n in range(1, len(word)):
            if word[: n + 1] not in tokens:
                tokens.append(word[: n + 1])
                merges.append(f"{word[:n]} {word[n]}")
    return tokens, merges


def _byte_letters() -> list[str]:
    """Printable bytes are their own letter; the others have those from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
