"""llama.cpp's context as the engine uses it: batches in, logits out, cells moved between slots.

A slot is one of llama.cpp's sequence ids. Everything here belongs to the engine's one thread.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from worker.engine.runner import Chunk, DecodeError, Logits, State
from worker.llama.library import llama_cpp
from worker.llama.slot_memory import SlotMemory
from worker.llama.token_batch import TokenBatch

# ctypes' CDLL lets go of the GIL around every call, and getting it back can take a whole switch interval
# (5 ms) when another thread is busy. Calls that return in microseconds go through PyDLL, which keeps it.
_quick = ctypes.PyDLL(llama_cpp.llama_cpp._lib._name)


def _quick_call(name: str, restype: Any, *argtypes: Any) -> Any:
    function = getattr(_quick, name)
    function.restype, function.argtypes = restype, argtypes
    return function


_get_logits = _quick_call("llama_get_logits", ctypes.c_void_p, ctypes.c_void_p)
_seq_rm = _quick_call(
    "llama_memory_seq_rm", ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32
)
_seq_cp = _quick_call("llama_memory_seq_cp", None, ctypes.c_void_p, *[ctypes.c_int32] * 4)
_seq_pos_max = _quick_call("llama_memory_seq_pos_max", ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
_seq_pos_min = _quick_call("llama_memory_seq_pos_min", ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
_state_size = _quick_call("llama_state_seq_get_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32)
# States are copied with the GIL let go of: that takes milliseconds.
_state_get, _state_set = (
    llama_cpp.llama_cpp._lib[name] for name in ("llama_state_seq_get_data", "llama_state_seq_set_data")
)
for _function in (_state_get, _state_set):
    _function.restype = ctypes.c_size_t
    _function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32)

PLAIN = SlotMemory(fixed=0, by_token=0, by_window_token=0, window=0, can_truncate=True)


class LlamaRunner:
    """A llama_context of `num_slots` sequences with `context_length` tokens each.

    Not unified, every slot has its own stream of cells: attention reads only its own, but llama_decode
    computes only *consecutive* slots together, so idle slots between active ones get a throw-away token
    (a recurrent model's do not: its state cannot give a token back). Layers that see a window have cells for
    little more than that.
    Unified, all slots share one pool: copies cost nothing, attention scans everybody's cells.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_slots: int,
        context_length: int,
        n_batch: int,
        n_threads: int,
        kv_unified: bool = False,
        slot_memory: SlotMemory = PLAIN,
        n_ubatch: int = 512,
        type_k: int | None = None,
        type_v: int | None = None,
        params: Any = None,
    ) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        self.max_batch = max(n_batch, num_slots)
        self.copies_are_free = kv_unified
        self.keeps_every_position = slot_memory.can_truncate and not slot_memory.window
        self._slot_memory = slot_memory
        self._fills_holes = slot_memory.can_truncate and not kv_unified
        self.num_dummy_tokens = 0
        self._model = model  # keeps the weights alive
        params = params or llama_cpp.llama_context_default_params()
        params.n_ctx = context_length * num_slots
        # A full batch may still be given a throw-away token for each idle slot; llama.cpp aborts the process
        # where a batch is larger than this.
        params.n_batch = self.max_batch + num_slots
        params.n_ubatch = min(n_ubatch, self.max_batch)
        params.n_seq_max = num_slots
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = kv_unified
        params.swa_full = kv_unified  # a cell that sequences share is never taken back by llama.cpp
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        if type_k is not None:
            params.type_k = type_k
        if type_v is not None:
            params.type_v = type_v
        self._ctx = llama_cpp.llama_init_from_model(model.model, params)
        if not self._ctx:
            raise MemoryError(
                f"llama.cpp could not create a context of {num_slots} x {context_length} tokens"
            )
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._lengths = [0] * num_slots
        # Room for the throw-away tokens.
        self._batch = TokenBatch(self.max_batch + num_slots, num_slots)

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        """One llama_decode; rows come back by slot, so the caller passes chunks in slot order."""
        ordered = sorted(chunks, key=_slot)
        dummies: list[int] = []
        if self._fills_holes:
            dummies = self._idle_slots_between(ordered)
            if dummies:
                # The token itself does not matter, its cell is removed below.
                ordered = sorted([*ordered, *(Chunk(s, self._lengths[s], (0,)) for s in dummies)], key=_slot)
        num_rows = self._fill_batch(ordered)
        status = llama_cpp.llama_decode(self._ctx, self._batch.batch)
        for slot in dummies:
            _seq_rm(self._memory, slot, self._lengths[slot], -1)
        self.num_dummy_tokens += len(dummies)
        if status != 0:
            for chunk in chunks:
                self._take_back(chunk.slot)
            raise DecodeError(f"llama_decode returned {status}")
        for chunk in chunks:
            self._lengths[chunk.slot] += len(chunk.tokens)
        return self._read_logits(num_rows)

    def _idle_slots_between(self, ordered: Sequence[Chunk]) -> list[int]:
        busy = {chunk.slot for chunk in ordered}
        first, last = ordered[0].slot, ordered[-1].slot
        if last - first + 1 == len(busy):
            return []
        return [s for s in range(first, last) if s not in busy and self._lengths[s] < self.context_length]

    def _fill_batch(self, ordered: Sequence[Chunk]) -> int:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        logits: list[int] = []
        for chunk in ordered:
            length = len(chunk.tokens)
            tokens += chunk.tokens
            positions += range(chunk.position, chunk.position + length)
            slots += [chunk.slot] * length
            logits += [0] * (length - chunk.num_logits) + [1] * chunk.num_logits
        self._batch.fill(tokens, positions, slots, logits)
        return sum(logits)

    def _read_logits(self, num_rows: int) -> Logits:
        if num_rows == 0:
            return np.empty((0, self._vocab_size), np.float32)
        address = _get_logits(self._ctx)
        buffer = (ctypes.c_float * (num_rows * self._vocab_size)).from_address(address)
        return np.frombuffer(buffer, np.float32).reshape(num_rows, self._vocab_size)

    def truncate(self, slot: int, length: int) -> None:
        if length < self._lengths[slot]:
            if not _seq_rm(self._memory, slot, length or -1, -1):
                raise RuntimeError(f"slot {slot} cannot be cut down to {length} tokens")
            self._lengths[slot] = length

    def shortest(self, slot: int) -> int:
        return self._shortest(self._lengths[slot], _seq_pos_min(self._memory, slot))

    def shortest_copy(self, slot: int) -> int:
        return self.shortest(slot) if self.copies_are_free else self._shortest_saved(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        _seq_rm(self._memory, target, -1, -1)
        _seq_cp(self._memory, source, target, 0, length)
        self._lengths[target] = length

    def save(self, slot: int) -> State:
        size = _state_size(self._ctx, slot)
        # Mapped, so that all of it goes back to the system when it is dropped.
        data = memoryview(mmap.mmap(-1, size))
        if _state_get(self._ctx, _address(data), size, slot) != size:
            raise RuntimeError(f"llama.cpp did not give the state of slot {slot}")
        return State(data, self._lengths[slot], self._shortest_saved(slot))

    def load(self, state: State, slot: int, length: int) -> None:
        if not _state_set(self._ctx, _address(state.data), state.data.nbytes, slot):
            raise RuntimeError(f"llama.cpp did not take the state for slot {slot}")
        self._lengths[slot] = state.length
        self.truncate(slot, length)

    def length(self, slot: int) -> int:
        return int(_seq_pos_max(self._memory, slot)) + 1

    def close(self) -> None:
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None

    def _take_back(self, slot: int) -> None:
        """Undo what a failed llama_decode may have left in a slot; all of it, where it cannot be cut."""
        if not _seq_rm(self._memory, slot, self._lengths[slot] or -1, -1):
            _seq_rm(self._memory, slot, -1, -1)
            self._lengths[slot] = 0

    def _shortest(self, length: int, first: int) -> int:
        """`first` is the oldest position that is there."""
        window = self._slot_memory.window
        if not self._slot_memory.can_truncate or (first > 0 and not window):
            return length
        return 0 if first <= 0 else min(length, first + window - 1)

    def _shortest_saved(self, slot: int) -> int:
        """A state leaves out what the next token does not attend to."""
        length, window = self._lengths[slot], self._slot_memory.window
        first = _seq_pos_min(self._memory, slot)
        return self._shortest(length, max(first, length - window) if window else first)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def _slot(chunk: Chunk) -> int:
    return chunk.slot
