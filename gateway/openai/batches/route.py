"""POST and GET /v1/batches."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from gateway.deps import ExchangeDep
from gateway.errors import APIError, invalid, unsupported
from gateway.json_body import JSONRoute, StrictBody
from gateway.openai.batch_runner import Fresh, runner_of
from gateway.openai.batches.batch import (
    ENDED,
    ENDPOINTS,
    Batch,
    batch_not_found,
    find_batch,
    kept_batches,
    new_batch,
    write_caller,
)
from gateway.openai.file_store import FileStore, Page, is_id, page, write_json

MOST_UNDER_WAY = 100  # of one owner

router = APIRouter(prefix="/batches", tags=["batches"], route_class=JSONRoute, dependencies=[Fresh])


class BatchRequest(StrictBody):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


@router.post("")
async def create_batch(body: BatchRequest, request: Request, exchange: ExchangeDep) -> Batch:
    """A file of requests, to be answered in the background."""
    store: FileStore = request.app.state.files
    if body.endpoint not in ENDPOINTS:
        raise invalid(
            f"Invalid value for 'endpoint': it should be one of {', '.join(ENDPOINTS)}.", "endpoint"
        )
    if unknown := next(iter(body.model_extra or {}), None):
        raise unsupported(unknown, "batches have no such parameter here. Leave it out.")
    file = await asyncio.to_thread(store.find, exchange.owner, body.input_file_id, "input_file_id")
    if file["purpose"] != "batch":
        raise invalid("Invalid value for 'input_file_id': its purpose is not 'batch'.", "input_file_id")
    under_way = [each for each in await _all(store, exchange.owner) if each["status"] not in ENDED]
    if len(under_way) >= MOST_UNDER_WAY:
        message = (
            f"{len(under_way)} batches of yours are under way, the most that may be. Wait for one to end."
        )
        raise APIError(
            429, message, type="rate_limit_error", code="too_many_batches", headers={"Retry-After": "60"}
        )
    batch = new_batch(body.endpoint, body.input_file_id, body.metadata, store.clock())
    path = store.batches(exchange.owner) / f"{batch['id']}.json"
    await asyncio.to_thread(write_caller, path.parent, batch["id"], exchange.caller)
    await asyncio.to_thread(write_json, path, batch)
    runner = runner_of(request)
    try:
        await runner.commit()
        await runner.start(exchange.owner, batch["id"])
    except BaseException:  # or it would be listed, and never run
        path.unlink()
        raise
    return batch


@router.get("")
async def list_batches(
    request: Request,
    exchange: ExchangeDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> Page:
    """The batches of this key, the newest first."""
    return page(await _all(request.app.state.files, exchange.owner), limit, after)


@router.get("/{batch_id}")
async def retrieve_batch(batch_id: str, request: Request, exchange: ExchangeDep) -> Batch:
    """How far a batch is."""
    return await _found(request.app.state.files, exchange.owner, batch_id)


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, request: Request, exchange: ExchangeDep) -> Batch:
    """No more of it is answered; what was, can be read."""
    store: FileStore = request.app.state.files
    batch = await _found(store, exchange.owner, batch_id)
    if batch["status"] in ENDED:
        raise invalid(
            f"Cannot cancel a batch with status '{batch['status']}'.", "id", "batch_not_cancellable"
        )
    path = store.batches(exchange.owner) / f"{batch_id}.cancel"
    await asyncio.to_thread(write_json, path, {"at": int(store.clock())})
    await runner_of(request).commit()
    await runner_of(request).cancel(exchange.owner, batch_id)
    return await _found(store, exchange.owner, batch_id)


async def _all(store: FileStore, owner: str) -> list[Any]:
    return await asyncio.to_thread(kept_batches, store, owner)


async def _found(store: FileStore, owner: str, batch_id: str) -> Batch:
    batch = await asyncio.to_thread(find_batch, store.batches(owner), batch_id) if is_id(batch_id) else None
    if batch is None:
        raise batch_not_found(batch_id)
    return batch
