"""POST /generate, the route of the first deployment, kept for its callers."""

from __future__ import annotations

from fastapi import APIRouter, Request

from gateway import translate
from gateway.context import GatewayDep, RequestId
from gateway.routes.answers import collect
from gateway.schemas import GenerateRequest, GenerateResponse

router = APIRouter(tags=["legacy"])


@router.post("/generate")
async def generate(
    body: GenerateRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> GenerateResponse:
    """One message in, one answer out, under the server's own system prompt."""
    model = (await gateway.backend.models())[0].id
    collector = await collect(request, gateway, translate.generate_request(body.message, model, request_id))
    return GenerateResponse(response=collector.text())
