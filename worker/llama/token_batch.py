"""llama.cpp's batch, in numpy's memory: filled by whole arrays, not token by token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.llama.library import llama_cpp


class TokenBatch:
    """Room for `size` tokens of `num_sequences` sequences; `batch` is what llama.cpp is called with."""

    def __init__(self, size: int, num_sequences: int) -> None:
        self._token = np.zeros(size, np.int32)
        self._position = np.zeros(size, np.int32)
        self._num_ids = np.ones(size, np.int32)
        self._is_output = np.zeros(size, np.int8)
        self._ids = np.arange(num_sequences, dtype=np.int32)
        self._id_addresses = self._ids.ctypes.data + 4 * np.arange(num_sequences, dtype=np.uint64)
        self._id_pointers = np.zeros(size, np.uint64)

        def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, kind)

        int_pointer = ctypes.POINTER(ctypes.c_int32)
        self.batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=pointer(self._token, int_pointer),
            embd=None,
            pos=pointer(self._position, int_pointer),
            n_seq_id=pointer(self._num_ids, int_pointer),
            seq_id=pointer(self._id_pointers, ctypes.POINTER(int_pointer)),
            logits=pointer(self._is_output, ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        is_output: Sequence[int],
    ) -> None:
        """In place of what was there; all of one length."""
        size = len(tokens)
        self._token[:size] = tokens
        self._position[:size] = positions
        self._id_pointers[:size] = self._id_addresses[sequences]
        self._is_output[:size] = is_output
        self.batch.n_tokens = size
