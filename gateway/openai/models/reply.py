"""Models as they go out: `model`, and `list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from typing_extensions import TypedDict

from worker.protocol import ModelInfo


class ModelBody(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelBody]


def model_body(model: ModelInfo) -> ModelBody:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": "llama-gateway"}


def model_list(models: Iterable[ModelInfo]) -> ModelList:
    return {"object": "list", "data": [model_body(model) for model in models]}
