"""Models as they go out: `model`, and `list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from typing_extensions import TypedDict

from worker.protocol import ModelInfo, ModelKind


class ModelMeta(TypedDict):
    n_ctx: int


# What llama-server calls it, whose clients show the models that can do what they are for.
CAPABILITIES: dict[ModelKind, list[str]] = {"chat": ["completion"], "embedding": ["embedding"]}


class ModelBody(TypedDict):
    """OpenAI's four fields, and the context's length in tokens and what can be asked for, as vLLM and
    llama-server tell it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    meta: ModelMeta
    capabilities: list[str]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelBody]


def model_body(model: ModelInfo) -> ModelBody:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "llama-gateway",
        "max_model_len": model.context_length,
        "meta": {"n_ctx": model.context_length},
        "capabilities": CAPABILITIES[model.kind],
    }


def model_list(models: Iterable[ModelInfo]) -> ModelList:
    return {"object": "list", "data": [model_body(model) for model in models]}
