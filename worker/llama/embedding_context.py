"""llama.cpp's context as an embedding model uses it: inputs in, one vector for each out.

Everything here belongs to the embedder's one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from worker.engine.embedder import Vectors
from worker.engine.runner import DecodeError
from worker.llama.library import llama_cpp
from worker.llama.token_batch import TokenBatch

# More make batches of very short inputs larger, which by then are no faster.
MAX_INPUTS = 64
POOLED = {
    llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    llama_cpp.LLAMA_POOLING_TYPE_CLS,
    llama_cpp.LLAMA_POOLING_TYPE_LAST,
}


class CannotEmbed(ValueError):
    """The model makes no vectors of texts; the message says what it does."""


class EmbeddingContext:
    """A llama_context that pools, as the model's file says, or else to the mean.

    Batches have up to `n_batch` tokens. An input of up to `context_length` tokens that is longer is computed
    alone: in pieces where each token sees only those before it and the last one is the vector, and
    otherwise at once, which takes buffers for as many tokens.
    """

    def __init__(self, model: Any, *, context_length: int, n_batch: int, n_threads: int) -> None:
        self._model = model  # keeps the weights alive
        self.max_tokens = min(n_batch, context_length)
        self.max_inputs = min(MAX_INPUTS, self.max_tokens)  # llama.cpp aborts the process where it is more
        self.size = int(llama_cpp.llama_model_n_embd_out(model.model))
        params = llama_cpp.llama_context_default_params()
        params.embeddings = True
        params.pooling_type = pooling_type(model)
        self._in_pieces = _is_causal(model) and params.pooling_type == llama_cpp.LLAMA_POOLING_TYPE_LAST
        params.n_ctx = context_length
        params.n_batch = params.n_ubatch = self.max_tokens if self._in_pieces else context_length
        params.n_seq_max = self.max_inputs
        params.kv_unified = True  # or llama.cpp would cut inputs of different lengths into pieces
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        self._ctx = llama_cpp.llama_init_from_model(model.model, params)
        if not self._ctx:
            raise MemoryError(f"llama.cpp could not create a context of {context_length} tokens")
        self._memory = llama_cpp.llama_get_memory(self._ctx)  # none where every token sees all others
        encodes = not self._memory or llama_cpp.llama_model_has_encoder(model.model)
        self._compute = llama_cpp.llama_encode if encodes else llama_cpp.llama_decode
        self._batch = TokenBatch(params.n_batch, self.max_inputs)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        if self._in_pieces and len(inputs) == 1:
            for start in range(0, len(inputs[0]), self.max_tokens):
                self._run([inputs[0][start : start + self.max_tokens]], start)
        else:
            self._run(inputs)
        return np.stack([self._vector(index) for index in range(len(inputs))])

    def _run(self, inputs: Sequence[Sequence[int]], start: int = 0) -> None:
        """One llama_decode or llama_encode; each input begins at the position `start`."""
        tokens = list(chain.from_iterable(inputs))
        positions = list(chain.from_iterable(range(start, start + len(part)) for part in inputs))
        sequences = list(chain.from_iterable([number] * len(part) for number, part in enumerate(inputs)))
        self._batch.fill(tokens, positions, sequences, [1] * len(tokens))
        if (status := self._compute(self._ctx, self._batch.batch)) != 0:
            raise DecodeError(f"{self._compute.__name__} returned {status}")

    def _vector(self, index: int) -> Vectors:
        pointer = llama_cpp.llama_get_embeddings_seq(self._ctx, index)
        if not pointer:
            raise DecodeError(f"there is no vector of input {index}")
        return np.ctypeslib.as_array(pointer, (self.size,)).copy()

    def close(self) -> None:
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None


def pooling_type(model: Any) -> int:
    """What the file says, or else the mean. Raises CannotEmbed for a model that does something else."""
    metadata = model.metadata()
    given = int(metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 0))
    if given == llama_cpp.LLAMA_POOLING_TYPE_NONE:
        return int(llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    if given not in POOLED:
        raise CannotEmbed("it ranks texts, which this server does not offer")
    return given


def _is_causal(model: Any) -> bool:
    metadata = model.metadata()
    return bool(metadata.get(f"{metadata.get('general.architecture')}.attention.causal", "true") == "true")
