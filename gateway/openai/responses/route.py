"""POST /v1/responses."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.answers.respond import Asked, respond
from gateway.deps import ExchangeDep
from gateway.document import whole_or_stream
from gateway.json_body import JSONRoute
from gateway.openai.responses.reply import ResponseEncoder, ResponseEvent, ResponseObject, new_response
from gateway.openai.responses.request import NAMES, ResponseRequest, chat_request, ignored_parameters

router = APIRouter(tags=["responses"], route_class=JSONRoute)


@router.post("/responses", responses=whole_or_stream(ResponseObject, ResponseEvent, done=False))
async def create_response(body: ResponseRequest, exchange: ExchangeDep) -> Response:
    """OpenAI's responses, whole or as server-sent events."""
    await exchange.gateway.model(body.model)
    wanted = chat_request(body, exchange.id)
    asked = Asked(wanted, ignored=tuple(ignored_parameters(body, wanted)), names=NAMES)
    return await respond(exchange, asked, ResponseEncoder(new_response(body), summarized=body.summarized))
