"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway import translate
from gateway.context import GatewayDep, RequestId
from gateway.routes.answers import answer_json, answer_stream
from gateway.schemas import ChatCompletionRequest

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions")
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> Response:
    """OpenAI's chat completions, whole or as server-sent events."""
    await gateway.model(body.model)
    chat_request = translate.chat_request(body, request_id)
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await answer_stream(request, gateway, chat_request, include_usage)
    return await answer_json(request, gateway, chat_request)
