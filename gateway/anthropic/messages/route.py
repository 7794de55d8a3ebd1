"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.answers.respond import Asked, respond
from gateway.anthropic.errors import ERROR_RESPONSES
from gateway.anthropic.messages.count_tokens import MessageTokensCount, count_tokens
from gateway.anthropic.messages.reply import MessageEncoder, MessageEvent, MessageObject
from gateway.anthropic.messages.request import (
    CountTokensRequest,
    MessagesRequest,
    count_request,
    ignored_parameters,
    message_request,
    names,
)
from gateway.deps import ExchangeDep
from gateway.document import whole_or_stream
from gateway.json_body import JSONRoute

PATH = "/messages"

router = APIRouter(tags=["messages"], route_class=JSONRoute, responses=ERROR_RESPONSES)


@router.post(PATH, responses=whole_or_stream(MessageObject, MessageEvent, done=False))
async def create_message(body: MessagesRequest, exchange: ExchangeDep) -> Response:
    """Anthropic's messages, whole or as server-sent events."""
    await exchange.gateway.model(body.model)
    wanted = message_request(body, exchange.id)
    asked = Asked(wanted, ignored=tuple(ignored_parameters(body)), names=names(body))
    encoder = MessageEncoder(body.model, body.max_tokens, hides_thinking=body.hides_thinking)
    return await respond(exchange, asked, encoder)


@router.post(f"{PATH}/count_tokens")
async def count_message_tokens(body: CountTokensRequest, exchange: ExchangeDep) -> MessageTokensCount:
    """How many tokens the prompt of a message has, with its tools."""
    await exchange.gateway.model(body.model)
    return await count_tokens(exchange, count_request(body, exchange.id))
