"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.answers.respond import Asked, answer
from gateway.deps import GatewayDep, RequestId
from gateway.document import ChatCompletion, ChatCompletionChunk, either_whole_or_stream
from gateway.json_body import JSONRoute
from gateway.openai import parameters
from gateway.openai.chat.reply import ChunkEncoder, Reply
from gateway.openai.requests import ChatCompletionRequest

router = APIRouter(tags=["chat"], route_class=JSONRoute)


@router.post("/v1/chat/completions", responses=either_whole_or_stream(ChatCompletion, ChatCompletionChunk))
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> Response:
    """OpenAI's chat completions, whole or as server-sent events."""
    await gateway.model(body.model)
    translated = parameters.chat_request(body, request_id, allow_grammar=gateway.settings.allow_grammar)
    functions = bool(body.functions)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    asked = Asked(
        translated.request,
        num_choices=translated.request.n,
        ignored=translated.ignored,
        encoder=ChunkEncoder(Reply(body.model, "chat.completion.chunk", functions), include_usage),
        whole=lambda collector: collector.completion(Reply(body.model, "chat.completion", functions)),
    )
    return await answer(request, gateway, asked)
