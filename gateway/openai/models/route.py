"""GET /v1/models and /v1/models/{id}; they never wake a worker."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway.deps import GatewayDep
from gateway.document import ModelBody, ModelList
from gateway.openai.chat.reply import model_body

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses={200: {"model": ModelList}})
async def list_models(gateway: GatewayDep) -> dict[str, Any]:
    """The models that `model` may name."""
    return {"object": "list", "data": [model_body(model) for model in await gateway.backend.models()]}


@router.get("/{model_id:path}", responses={200: {"model": ModelBody}})
async def retrieve_model(model_id: str, gateway: GatewayDep) -> dict[str, Any]:
    """One model."""
    return model_body(await gateway.model(model_id))
