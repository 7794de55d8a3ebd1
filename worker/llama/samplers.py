"""The samplers that only llama.cpp has: grammars, typical sampling, mirostat."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.engine.sampling import MIN_TEMPERATURE, Row
from worker.llama.library import llama_cpp
from worker.protocol import InvalidRequest, SamplingParams

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)


class Candidates:
    """llama.cpp's array of tokens over memory of ours."""

    def __init__(self, tokens: npt.NDArray[np.int32]) -> None:
        self.data = np.zeros(len(tokens), _CANDIDATE)
        self.tokens = tokens
        self._pointer = ctypes.cast(self.data.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))

    def apply(self, sampler: Any, logits: Row) -> llama_cpp.llama_token_data_array:
        self.data["id"], self.data["logit"], self.data["p"] = self.tokens, logits, 0
        array = llama_cpp.llama_token_data_array(
            data=self._pointer, size=len(self.data), selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        return array


class _Sampler:
    """Owns one llama_sampler."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def __del__(self) -> None:
        if getattr(self, "_sampler", None):
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._sampler, token)


class Grammar(_Sampler):
    """What a GBNF grammar allows next."""

    def __init__(self, model: Any, grammar: str, root: str = "root") -> None:
        sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, grammar.encode(), root.encode())
        if not sampler:
            raise InvalidRequest("The grammar could not be parsed.", "grammar")
        super().__init__(sampler)
        self._one = Candidates(np.zeros(1, np.int32))
        self._all: Candidates | None = None

    def allows(self, token: int) -> bool:
        self._one.tokens[0] = token
        self._one.apply(self._sampler, np.zeros(1, np.float32))
        return bool(np.isfinite(self._one.data["logit"][0]))

    def mask(self, row: Row) -> None:
        if self._all is None:
            self._all = Candidates(np.arange(len(row), dtype=np.int32))
        self._all.apply(self._sampler, row)
        row[:] = self._all.data["logit"]


class Chain(_Sampler):
    """A whole chain of llama.cpp's own samplers; calling it draws a token from a row of logits."""

    def __init__(self) -> None:
        super().__init__(llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params()))
        self._all: Candidates | None = None

    def add(self, sampler: Any) -> Chain:
        llama_cpp.llama_sampler_chain_add(self._sampler, sampler)
        return self

    def __call__(self, row: Row) -> int:
        if self._all is None:
            self._all = Candidates(np.arange(len(row), dtype=np.int32))
        array = self._all.apply(self._sampler, row)
        token = int(array.data[array.selected].id)
        self.accept(token)
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
