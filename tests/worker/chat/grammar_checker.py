"""Asks llama.cpp itself what a grammar lets through, with the default model's vocabulary and no weights."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import random
from pathlib import Path

from worker.llama.library import llama_cpp
from worker.models import default


@functools.cache
def vocabulary() -> llama_cpp.Llama:
    """The default model's tokenizer and metadata, without its weights."""
    spec = importlib.util.find_spec(default.PACKAGE)
    assert spec
    assert spec.submodule_search_locations
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


class GrammarChecker:
    """One grammar, walked token by token."""

    def __init__(self, grammar: str) -> None:
        self._llama = vocabulary()
        vocab = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        assert self._sampler, f"llama.cpp cannot read this grammar:\n{grammar}"

    def accepts(self, text: str) -> bool:
        """Whether `text` is a whole sentence of the grammar."""
        llama_cpp.llama_sampler_reset(self._sampler)
        for token in self._llama.tokenize(text.encode(), add_bos=False, special=False):
            if not self._allowed([token]):
                return False
            llama_cpp.llama_sampler_accept(self._sampler, token)
        return bool(self._allowed([self._llama.token_eos()]))

    def random_sentence(self, seed: int, max_tokens: int = 2000) -> str:
        """What a model that knows nothing but this grammar would write."""
        llama_cpp.llama_sampler_reset(self._sampler)
        choose, eos, text = random.Random(seed), self._llama.token_eos(), ""
        for _ in range(max_tokens):
            allowed = self._allowed([eos, *_byte_tokens()])
            assert allowed, f"the grammar leads into a dead end after {text!r}"
            token = eos if eos in allowed else choose.choice(allowed)
            if token == eos:
                return text
            text += self._llama.detokenize([token]).decode()
            llama_cpp.llama_sampler_accept(self._sampler, token)
        raise AssertionError(f"no end after {max_tokens} tokens: {text[:200]!r}")

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)

    def _allowed(self, tokens: list[int]) -> list[int]:
        data = (llama_cpp.llama_token_data * len(tokens))()
        for slot, token in zip(data, tokens, strict=True):
            slot.id, slot.logit = token, 0.0
        candidates = llama_cpp.llama_token_data_array(data, len(tokens), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(candidates))
        return [token for token, slot in zip(tokens, data, strict=True) if slot.logit == 0.0]


@functools.cache
def _byte_tokens() -> tuple[int, ...]:
    """One token for each printable ASCII character, the quote and brackets often, so that walks end."""
    llama = vocabulary()
    printable = [chr(code) for code in range(32, 127)] + ["\n"] + ['"', "}", "]"] * 40
    return tuple(
        tokens[0]
        for char in printable
        if len(tokens := llama.tokenize(char.encode(), add_bos=False, special=False)) == 1
    )
