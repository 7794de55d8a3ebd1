"""EmbeddingModel: texts or tokens in, vectors of length 1 out, for many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from worker.engine.embedder import Embedder, EmbedderStats, Vectors
from worker.llama.cpu_variants import load_cpu_variant
from worker.llama.embedding_context import EmbeddingContext
from worker.llama.library import llama_cpp
from worker.llama.machine import available_cores
from worker.llama.tokenizer import Tokenizer
from worker.protocol import ContextLengthExceeded, InvalidRequest


class EmbeddingModel:
    """A model of vectors, loaded once. `n_ctx` bounds the tokens of one input, if the model does not.

    Raises ValueError for what llama.cpp cannot load, CannotEmbed for what makes no vectors, MemoryError.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_ctx: int = 8192,
        n_batch: int = 512,
        n_threads: int | None = None,
        max_waiting: int = 256,
        n_gpu_layers: int = 0,
    ) -> None:
        cores = available_cores()
        load_cpu_variant()
        self._model = load_model(model_path, n_gpu_layers)
        try:
            self.context_length = min(n_ctx, self._model.n_ctx_train())
            self._tokenizer = Tokenizer(self._model)
            self._before, self._after = _special_tokens(self._model)
            self._vocabulary_size = self._model.n_vocab()
            context = EmbeddingContext(
                self._model,
                context_length=self.context_length,
                n_batch=n_batch,
                n_threads=min(n_threads or cores, cores),
            )
        except BaseException:
            self._model.close()
            raise
        self.size = context.size
        self.metadata: dict[str, str] = self._model.metadata()
        self._embedder = Embedder(context, max_waiting + context.max_inputs)

    @property
    def alive(self) -> bool:
        return self._embedder.alive

    @property
    def is_full(self) -> bool:
        """Whether a request would be refused now."""
        return self._embedder.is_full

    def stats(self) -> EmbedderStats:
        return self._embedder.stats()

    def tokens(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        """Of each input: a text between the special tokens that the model expects, tokens as they stand.

        Text never becomes control tokens. Raises InvalidRequest or ContextLengthExceeded, which name the
        input.
        """
        return [
            self._tokens(given, f"input[{index}]" if len(inputs) > 1 else "input")
            for index, given in enumerate(inputs)
        ]

    def embed(self, inputs: Sequence[Sequence[int]]) -> Future[Vectors]:
        """A row for each input, of any length; cancelling it stops the computation at the next batch.

        Raises Overloaded or WorkerFailed.
        """
        return self._embedder.submit(inputs)

    def close(self) -> None:
        self._embedder.close()
        self._model.close()

    def _tokens(self, given: str | Sequence[int], param: str) -> list[int]:
        if isinstance(given, str):
            text = self._tokenizer.tokenize(given.encode(), special=False)
            tokens = [*self._before, *text, *self._after]
        else:
            tokens = list(given)
            unknown = [token for token in tokens if not 0 <= token < self._vocabulary_size]
            if unknown:
                raise InvalidRequest(
                    f"{param} has the token {unknown[0]}, which is not in this model's vocabulary, whose ids "
                    f"go from 0 to {self._vocabulary_size - 1}. Send text, or tokens of this model.",
                    param,
                )
        if not tokens:
            raise InvalidRequest(f"{param} has no tokens. Send some text.", param)
        if len(tokens) > self.context_length:
            raise ContextLengthExceeded(self.context_length, len(tokens), param)
        return tokens


def load_model(path: str, n_gpu_layers: int) -> Any:
    """llama-cpp-python's own wrapper of the weights. Raises ValueError where llama.cpp cannot load them."""
    llama_cpp.llama_backend_init()
    llama_cpp._logger.set_verbose(False)
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0x7FFFFFFF if n_gpu_layers == -1 else n_gpu_layers
    return llama_cpp._internals.LlamaModel(path_model=path, params=params, verbose=False)


def normalised(vectors: Vectors, dimensions: int | None = None) -> Vectors:
    """The first `dimensions` numbers of each row, scaled to length 1; a row of zeros stays one."""
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(cut / lengths, np.float32)


def _special_tokens(model: Any) -> tuple[list[int], list[int]]:
    """What the model expects before and after a text: [CLS] and [SEP], or nothing and its end token."""
    plain, whole = (_tokenize(model, b"a", special) for special in (False, True))
    start = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]


def _tokenize(model: Any, text: bytes, add_special: bool) -> list[int]:
    tokens: list[int] = model.tokenize(text, add_special, False)
    return tokens
