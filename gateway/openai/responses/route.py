"""POST /v1/responses, and what was kept of them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Response

from gateway.answers.respond import Asked, respond
from gateway.deps import ExchangeDep
from gateway.document import whole_or_stream
from gateway.errors import unsupported
from gateway.json_body import JSONRoute
from gateway.openai.responses.conversations import ConversationsDep
from gateway.openai.responses.reply import (
    DeletedResponse,
    ItemList,
    ResponseEncoder,
    ResponseEvent,
    ResponseObject,
    item_list,
    new_response,
)
from gateway.openai.responses.request import (
    NAMES,
    ResponseRequest,
    chat_request,
    ignored_parameters,
    input_items,
)

router = APIRouter(tags=["responses"], route_class=JSONRoute)


@router.post("/responses", responses=whole_or_stream(ResponseObject, ResponseEvent, done=False))
async def create_response(
    body: ResponseRequest, exchange: ExchangeDep, conversations: ConversationsDep
) -> Response:
    """OpenAI's responses, whole or as server-sent events."""
    await exchange.gateway.model(body.model)
    items = await conversations.resolved(input_items(body))
    wanted = chat_request(body, exchange.id, items, await conversations.until(body.previous_response_id))
    store = conversations.are_kept and body.store is not False
    asked = Asked(wanted, ignored=tuple(ignored_parameters(body, wanted, stored=store)), names=NAMES)
    encoder = ResponseEncoder(
        new_response(body, store=store),
        summarized=body.summarized,
        keep=partial(conversations.keep, items=items) if store else None,
    )
    return await respond(exchange, asked, encoder)


@router.post("/responses/compact", include_in_schema=False)
async def compact_response() -> Response:
    """Nothing is compacted here: an unknown route, not one of a response that is called `compact`."""
    raise HTTPException(404)


@router.get("/responses/{response_id}", response_model=ResponseObject)
async def get_response(
    response_id: str, conversations: ConversationsDep, stream: bool | None = None
) -> Response:
    """A response that was kept."""
    if stream:
        raise unsupported("stream", "what was kept is complete. Leave it out.")
    return Response(await conversations.response(response_id), media_type="application/json")


@router.delete("/responses/{response_id}")
async def delete_response(response_id: str, conversations: ConversationsDep) -> DeletedResponse:
    """What continued it can be read, but not continued any more."""
    await conversations.delete(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get("/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    conversations: ConversationsDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> ItemList:
    """What a response was made from, with all that it continues."""
    return item_list(await conversations.input_items(response_id), limit, order, after)
