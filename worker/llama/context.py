"""The only module that calls llama.cpp's context: batches in, logits out, cells moved between slots.

A slot is one of llama.cpp's sequence ids. Everything here belongs to the engine's one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.engine.runner import Chunk, DecodeError, Logits
from worker.llama.library import llama_cpp

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
_state_size = _quick_call("llama_state_seq_get_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32)
_state_get = _quick_call(
    "llama_state_seq_get_data",
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int32,
)
_state_set = _quick_call(
    "llama_state_seq_set_data",
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int32,
)


class LlamaRunner:
    """A llama_context of `num_slots` sequences with `context_length` tokens each.

    Not unified, every slot has its own stream of cells: attention reads only its own, but llama_decode
    computes only *consecutive* slots together, so idle slots between active ones get a throw-away token
    (a recurrent model's do not: its state cannot give a token back).
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
        recurrent: bool = False,
        n_ubatch: int = 512,
        type_k: int | None = None,
        type_v: int | None = None,
        params: Any = None,
    ) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        self.max_batch = max(n_batch, num_slots)
        self.copies_are_free = kv_unified
        self._fills_holes = not (kv_unified or recurrent)
        self.num_dummy_tokens = 0
        self._model = model  # keeps the weights alive
        num_sequences = num_slots + 1 if kv_unified else num_slots  # unified: one more to hold what is saved
        params = params or llama_cpp.llama_context_default_params()
        params.n_ctx = context_length * num_slots
        # A full batch may still be given a throw-away token for each idle slot; llama.cpp aborts the process
        # where a batch is larger than this.
        params.n_batch = self.max_batch + num_slots
        params.n_ubatch = min(n_ubatch, self.max_batch)
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = kv_unified
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
        self._num_saved = 0
        self._allocate_batch()

    def _allocate_batch(self) -> None:
        size = self.max_batch + self.num_slots  # room for the throw-away tokens
        self._token = np.zeros(size, np.int32)
        self._position = np.zeros(size, np.int32)
        self._num_ids = np.ones(size, np.int32)
        self._wants_logits = np.zeros(size, np.int8)
        self._ids = np.arange(self.num_slots, dtype=np.int32)
        self._id_addresses = self._ids.ctypes.data + 4 * np.arange(self.num_slots, dtype=np.uint64)
        self._id_pointers = np.zeros(size, np.uint64)

        def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, kind)

        int_pointer = ctypes.POINTER(ctypes.c_int32)
        self._batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=pointer(self._token, int_pointer),
            embd=None,
            pos=pointer(self._position, int_pointer),
            n_seq_id=pointer(self._num_ids, int_pointer),
            seq_id=pointer(self._id_pointers, ctypes.POINTER(int_pointer)),
            logits=pointer(self._wants_logits, ctypes.POINTER(ctypes.c_int8)),
        )

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        """One llama_decode; rows come back by slot, so the caller passes chunks in slot order."""
        ordered = sorted(chunks, key=_slot)
        dummies: list[int] = []
        if self._fills_holes:
            dummies = self._idle_slots_between(ordered)
            if dummies:
                # The token itself does not matter, its cell is removed below.
                ordered = sorted([*ordered, *(Chunk(s, self._lengths[s], (0,)) for s in dummies)], key=_slot)
        num_tokens, num_rows = self._fill_batch(ordered)
        self._batch.n_tokens = num_tokens
        status = llama_cpp.llama_decode(self._ctx, self._batch)
        for slot in dummies:
            _seq_rm(self._memory, slot, self._lengths[slot], -1)
        self.num_dummy_tokens += len(dummies)
        if status != 0:
            for chunk in chunks:
                _seq_rm(self._memory, chunk.slot, self._lengths[chunk.slot], -1)
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

    def _fill_batch(self, ordered: Sequence[Chunk]) -> tuple[int, int]:
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
        size = len(tokens)
        self._token[:size] = tokens
        self._position[:size] = positions
        self._id_pointers[:size] = self._id_addresses[slots]
        self._wants_logits[:size] = logits
        return size, sum(logits)

    def _read_logits(self, num_rows: int) -> Logits:
        if num_rows == 0:
            return np.empty((0, self._vocab_size), np.float32)
        address = _get_logits(self._ctx)
        buffer = (ctypes.c_float * (num_rows * self._vocab_size)).from_address(address)
        return np.frombuffer(buffer, np.float32).reshape(num_rows, self._vocab_size)

    def truncate(self, slot: int, length: int) -> None:
        if length < self._lengths[slot]:
            _seq_rm(self._memory, slot, length, -1)
            self._lengths[slot] = length

    def copy(self, source: int, target: int, length: int) -> None:
        if self.copies_are_free:
            _seq_rm(self._memory, target, -1, -1)
            _seq_cp(self._memory, source, target, 0, length)
            self._lengths[target] = length
        else:
            # llama_memory_seq_cp would copy the whole stream, used or not; a state is as long as its tokens.
            self.load(self.save(source), target, length)

    def swap(self, left: int, right: int) -> None:
        lengths = self._lengths[left], self._lengths[right]
        states = [
            self.save(slot) if length else None for slot, length in zip((left, right), lengths, strict=True)
        ]
        for slot, state, length in zip((right, left), states, lengths, strict=True):
            if state is None:
                self.truncate(slot, 0)
            else:
                self.load(state, slot, length)

    def save(self, slot: int) -> Any:
        if self.copies_are_free:
            if self._num_saved:
                raise RuntimeError("a unified cache keeps one saved prefix")
            self._num_saved = 1
            _seq_cp(self._memory, slot, self.num_slots, 0, self._lengths[slot])
            return self.num_slots
        size = _state_size(self._ctx, slot)
        state = ctypes.create_string_buffer(size)
        if _state_get(self._ctx, state, size, slot) != size:
            raise RuntimeError(f"llama.cpp did not give the state of slot {slot}")
        return state

    def load(self, state: Any, slot: int, length: int) -> None:
        if self.copies_are_free:
            _seq_rm(self._memory, slot, -1, -1)
            _seq_cp(self._memory, state, slot, 0, length)
        else:
            if not _state_set(self._ctx, state, len(state), slot):
                raise RuntimeError(f"llama.cpp did not take the state for slot {slot}")
            _seq_rm(self._memory, slot, length, -1)
        self._lengths[slot] = length

    def length(self, slot: int) -> int:
        return int(_seq_pos_max(self._memory, slot)) + 1

    def close(self) -> None:
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None


MIB = 1024 * 1024
# More do not raise the throughput, and on two cores a stream of 48 is already no faster than one reads.
MAX_SLOTS = 48
# For the compute buffers, Python and whatever else lives in the worker's process.
RESERVED_MB = 512


def kv_bytes_per_token(model: Any) -> int:
    """What one token takes in the KV cache, at 16 bits a value."""
    handle = model.model
    head_size = llama_cpp.llama_model_n_embd(handle) // llama_cpp.llama_model_n_head(handle)
    metadata = model.metadata()
    architecture = metadata.get("general.architecture", "")
    key = int(metadata.get(f"{architecture}.attention.key_length", head_size))
    value = int(metadata.get(f"{architecture}.attention.value_length", head_size))
    heads = llama_cpp.llama_model_n_head_kv(handle)
    return int(llama_cpp.llama_model_n_layer(handle) * heads * (key + value) * 2)


def choose_num_slots(model: Any, context_length: int, memory_mb: int | None, wanted: int | None) -> int:
    """As many sequences as are wanted, or MAX_SLOTS, where memory has room for them."""
    if memory_mb is None:
        return wanted or 8
    room = memory_mb * MIB - model.size() - RESERVED_MB * MIB
    return int(max(1, min(wanted or MAX_SLOTS, room // (kv_bytes_per_token(model) * context_length))))


def _slot(chunk: Chunk) -> int:
    return chunk.slot
