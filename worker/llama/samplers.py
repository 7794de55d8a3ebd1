"""The samplers that only llama.cpp has: typical sampling, mirostat."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np

from worker.engine.sampling import MIN_TEMPERATURE, Row
from worker.llama.library import llama_cpp
from worker.protocol import SamplingParams

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)


class Chain:
    """A chain of llama.cpp's own samplers; calling it draws a token from a row of logits."""

    def __init__(self) -> None:
        self._sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._candidates = np.empty(0, _CANDIDATE)

    def __del__(self) -> None:
        if getattr(self, "_sampler", None):
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None

    def add(self, sampler: Any) -> Chain:
        llama_cpp.llama_sampler_chain_add(self._sampler, sampler)
        return self

    def __call__(self, row: Row) -> int:
        if len(self._candidates) != len(row):
            self._candidates = np.zeros(len(row), _CANDIDATE)
        candidates = self._candidates
        candidates["id"], candidates["logit"], candidates["p"] = np.arange(len(row)), row, 0
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return token


def llama_chain(params: SamplingParams, vocab_size: int) -> Chain | None:
    """llama.cpp's own samplers, where `params` ask for what only they have; None where numpy's do."""
    if params.temperature < MIN_TEMPERATURE:
        return None
    seed = (params.seed if params.seed is not None else random.getrandbits(32)) & 0xFFFFFFFF
    if params.mirostat_mode:
        return _mirostat_chain(params, vocab_size, seed)
    return _typical_chain(params, seed) if params.typical_p < 1 else None


def _typical_chain(params: SamplingParams, seed: int) -> Chain:
    """The library's own order of samplers, with typical sampling in it."""
    return (
        Chain()
        .add(llama_cpp.llama_sampler_init_top_k(params.top_k))
        .add(llama_cpp.llama_sampler_init_typical(params.typical_p, 1))
        .add(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
        .add(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
        .add(llama_cpp.llama_sampler_init_temp(params.temperature))
        .add(llama_cpp.llama_sampler_init_dist(seed))
    )


def _mirostat_chain(params: SamplingParams, vocab_size: int, seed: int) -> Chain:
    chain = Chain().add(llama_cpp.llama_sampler_init_temp(params.temperature))
    tau, eta = params.mirostat_tau, params.mirostat_eta
    if params.mirostat_mode == 1:
        return chain.add(llama_cpp.llama_sampler_init_mirostat(vocab_size, seed, tau, eta, 100))
    return chain.add(llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta))
