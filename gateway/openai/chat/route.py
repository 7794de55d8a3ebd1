"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.answers.respond import Asked, respond
from gateway.deps import ExchangeDep
from gateway.document import whole_or_stream
from gateway.json_body import JSONRoute
from gateway.openai.chat.reply import ChatCompletion, ChatCompletionChunk, ChatEncoder
from gateway.openai.chat.request import ChatCompletionRequest, chat_request, ignored_parameters

router = APIRouter(tags=["chat"], route_class=JSONRoute)


@router.post("/chat/completions", responses=whole_or_stream(ChatCompletion, ChatCompletionChunk))
async def create_chat_completion(body: ChatCompletionRequest, exchange: ExchangeDep) -> Response:
    """OpenAI's chat completions, whole or as server-sent events."""
    await exchange.gateway.model(body.model)
    wanted = chat_request(body, exchange.id)
    asked = Asked(wanted, wanted.n, tuple(ignored_parameters(body, wanted)))
    encoder = ChatEncoder(body.model, wanted.n, body.include_usage, functions=bool(body.functions))
    return await respond(exchange, asked, encoder)
