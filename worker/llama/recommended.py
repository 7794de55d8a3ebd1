"""The sampling that a model's author recommends in its file."""

from __future__ import annotations

from collections.abc import Mapping

# What a model's author may recommend, by llama.cpp's keys (enum llama_model_meta_key in llama.h).
SAMPLING_KEYS: Mapping[str, tuple[str, type[int] | type[float]]] = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_repeat": ("repeat_penalty", float),
}


def recommended_sampling(metadata: Mapping[str, str]) -> dict[str, float]:
    """The model's own sampling parameters, by the names of SamplingParams' fields; often there are none."""
    return {
        name: kind(float(metadata[key])) for key, (name, kind) in SAMPLING_KEYS.items() if key in metadata
    }
