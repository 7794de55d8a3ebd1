"""How a model remembers, and what a slot of it takes: asked of llama.cpp, which knows every architecture."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from worker.llama.library import llama_cpp

# llama.cpp rounds the cells of a sliding window up to a multiple of this.
WINDOW_PADDING = 256


@dataclass(frozen=True, slots=True)
class SlotMemory:
    """Bytes by token for the layers that see everything and those that see a window, and what is fixed."""

    fixed: int
    by_token: int
    by_window_token: int
    window: int  # 0: every layer sees everything
    can_truncate: bool  # a recurrent state cannot give a token back

    def num_bytes(self, context_length: int, n_ubatch: int) -> int:
        """What a slot of so many tokens takes."""
        cells = -(-(self.window + n_ubatch) // WINDOW_PADDING) * WINDOW_PADDING
        return self.fixed + self.by_token * context_length + self.by_window_token * min(cells, context_length)


def measure_slot_memory(model: Any, context: Any) -> SlotMemory:
    """Compute two tokens in a context that nobody uses, and see how its state grows; leaves it empty."""
    memory = llama_cpp.llama_get_memory(context)
    whole, partial = [], []
    for _ in range(2):
        _decode_one(context)
        whole.append(llama_cpp.llama_state_seq_get_size(context, 0))
        partial.append(
            llama_cpp.llama_state_seq_get_size_ext(context, 0, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)
        )
    can_truncate = bool(llama_cpp.llama_memory_seq_rm(memory, 0, 1, -1))
    llama_cpp.llama_memory_clear(memory, True)
    by_token, by_window_token = whole[1] - whole[0], partial[1] - partial[0]
    if by_window_token >= by_token:  # there is no part: no layer has cells for a window alone
        by_window_token = 0
    return SlotMemory(
        fixed=2 * whole[0] - whole[1],
        by_token=by_token - by_window_token,
        by_window_token=by_window_token,
        window=llama_cpp.llama_model_n_swa(model.model),
        can_truncate=can_truncate,
    )


def _decode_one(context: Any) -> None:
    token = (ctypes.c_int32 * 1)(0)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1)) != 0:
        raise RuntimeError("llama.cpp could not compute a single token with this model")
