"""POST /generate, the route of the first deployment, kept for its callers."""

from __future__ import annotations

from fastapi import APIRouter, Request

from gateway.answers.respond import collect
from gateway.deps import GatewayDep, RequestId
from gateway.json_body import JSONRoute
from gateway.openai import parameters
from gateway.openai.requests import GenerateRequest, GenerateResponse
from worker.protocol import ContextLengthExceeded

router = APIRouter(tags=["legacy"], route_class=JSONRoute)


@router.post("/generate")
async def generate(
    body: GenerateRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> GenerateResponse:
    """One message in, one answer out, under the server's own system prompt."""
    model = (await gateway.backend.models())[0].id
    worker_request = parameters.generate_request(body.message, model, request_id)
    try:
        collector = await collect(request, gateway, worker_request, 1)
    except ContextLengthExceeded as error:
        raise error.of("message") from None
    return GenerateResponse(response=collector.text())
