"""GET /v1/models and /v1/models/{id}; they never wake a worker."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.deps import GatewayDep
from gateway.openai.models.reply import ModelBody, ModelList, model_body, model_list

router = APIRouter(prefix="/models", tags=["models"])


@router.get("")
async def list_models(gateway: GatewayDep) -> ModelList:
    """The models that `model` may name."""
    return model_list(await gateway.backend.models())


@router.get("/{model_id:path}")
async def retrieve_model(model_id: str, gateway: GatewayDep) -> ModelBody:
    """One model."""
    return model_body(await gateway.served(model_id))
