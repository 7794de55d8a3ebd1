"""What a constraint lets through, token by token, with the default model's vocabulary and no weights."""

from __future__ import annotations

import functools
import importlib.util
import random
from pathlib import Path

import numpy as np

from worker.chat.constraint import Constraint, Constraints
from worker.llama.library import llama_cpp
from worker.llama.token_table import read_token_table
from worker.llama.vocabulary import LlamaVocabulary
from worker.models import default


@functools.cache
def vocabulary() -> llama_cpp.Llama:
    """The default model's tokenizer and metadata, without its weights."""
    spec = importlib.util.find_spec(default.PACKAGE)
    assert spec
    assert spec.submodule_search_locations
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


@functools.cache
def constraints() -> Constraints:
    model = vocabulary()._model
    return Constraints(lambda: read_token_table(model, LlamaVocabulary(model)))


class GrammarChecker:
    """One constraint, walked token by token."""

    def __init__(self, constraint: Constraint | str) -> None:
        """A constraint, or a grammar to make one of."""
        self._start = constraints().compile(constraint) if isinstance(constraint, str) else constraint

    def accepts(self, text: str) -> bool:
        """Whether `text` is a whole sentence of the grammar."""
        constraint = self._start.copy()
        for token in vocabulary().tokenize(text.encode(), add_bos=False, special=False) if text else []:
            if not constraint.allows(token):
                return False
            constraint.accept(token)
        return _may_end(constraint)

    def random_sentence(self, seed: int, max_tokens: int = 2000) -> str:
        """What a model that knows nothing but this grammar would write."""
        constraint, choose, written = self._start.copy(), random.Random(seed), b""
        for _ in range(max_tokens):
            written += vocabulary().detokenize(constraint.forced())
            if _may_end(constraint):
                return written.decode()
            allowed = _allowed(constraint)
            short = [token for token in _byte_tokens() if token in allowed]
            token = choose.choice(short or sorted(allowed))
            constraint.accept(token)
            written += vocabulary().detokenize([token])
        raise AssertionError(f"no end after {max_tokens} tokens: {written[:200]!r}")


def _may_end(constraint: Constraint) -> bool:
    return constraint.is_complete or constraint.allows(vocabulary().token_eos())


def _allowed(constraint: Constraint) -> set[int]:
    row = np.zeros(vocabulary().n_vocab(), np.float32)
    constraint.mask(row)
    return set(np.flatnonzero(row == 0).tolist())


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
