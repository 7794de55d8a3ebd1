"""What one owner has said and been answered: continued, referred to, listed and deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import structlog
from fastapi import Depends, Request
from pydantic import TypeAdapter

from gateway.deps import Exchange, ExchangeDep
from gateway.errors import APIError, invalid, unsupported
from gateway.openai.responses.items import Item, ItemReference, kept_items
from gateway.openai.responses.reply import RESPONSE_ID_LENGTH, ResponseObject
from gateway.openai.responses.store import Kept, ResponseStore

ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])
SEND_ALL = "Send the whole conversation as 'input'."

log = structlog.get_logger("gateway")


class Conversations:
    """The kept responses of whoever sends a request; others' are as if they did not exist."""

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self._store: ResponseStore = request.app.state.responses
        self._owner = exchange.owner
        self._max_bytes = exchange.gateway.settings.max_body_bytes

    @property
    def are_kept(self) -> bool:
        return self._store.keeps

    async def until(self, response_id: str | None) -> list[Item]:
        """All items up to the end of the response that a request continues. Raises a 400 where it is gone."""
        if response_id is None:
            return []
        param = "previous_response_id"
        if not self.are_kept:
            raise unsupported(param, f"this server keeps no responses. {SEND_ALL}")
        kept = await self._store.conversation(self._owner, response_id)
        if not kept or kept[0].previous_id:
            gone = kept[0].previous_id if kept else response_id
            message = f"The response '{gone}' is not kept here, or no longer. {SEND_ALL}"
            raise invalid(message, param, "previous_response_not_found")
        if sum(each.num_bytes for each in kept) > self._max_bytes:
            message = (
                f"The conversation that '{response_id}' ends is larger than this server's limit of "
                f"{self._max_bytes} bytes for a request. Send what matters of it as 'input'."
            )
            raise APIError(413, message, param=param, code="request_too_large")
        return ITEMS.validate_python([item for each in kept for item in each.items()])

    async def resolved(self, items: Sequence[Item]) -> list[Item]:
        """References replaced by the items that they are of. Raises a 400 for those that are not kept."""
        known: dict[str, dict[str, Any]] = {}
        resolved: list[Item] = []
        for i, item in enumerate(items):
            if not isinstance(item, ItemReference):
                resolved.append(item)
                continue
            if item.id not in known:
                known |= await self._beside(item.id)
            if item.id not in known:
                message = f"The item '{item.id}' is not kept here, or no longer. Send the item itself."
                raise invalid(message, f"input[{i}].id", "item_not_found")
            resolved += ITEMS.validate_python([known[item.id]])
        return resolved

    async def keep(self, response: ResponseObject, items: Sequence[Item]) -> None:
        """A response with the items of its own request. An answer does not fail because it cannot be kept."""
        kept = Kept(
            response["id"],
            response["previous_response_id"],
            orjson.dumps(kept_items(items, response["id"])),
            orjson.dumps(response),
        )
        try:
            await self._store.keep(self._owner, kept)
        except sqlite3.Error as error:
            log.error("response_not_kept", exc_info=error)

    async def response(self, response_id: str) -> bytes:
        """As it was answered. Raises a 404."""
        if (kept := await self._store.find(self._owner, response_id)) is None:
            raise self._not_found(response_id)
        return kept.response

    async def input_items(self, response_id: str) -> list[dict[str, Any]]:
        """What a response was made from, with what it continues, the earliest first. Raises a 404."""
        kept = await self._store.conversation(self._owner, response_id)
        if not kept:
            raise self._not_found(response_id)
        earlier = [item for each in kept[:-1] for item in each.items()]
        return [*earlier, *orjson.loads(kept[-1].input)]

    async def delete(self, response_id: str) -> None:
        """Raises a 404."""
        if not await self._store.delete(self._owner, response_id):
            raise self._not_found(response_id)

    async def _beside(self, item_id: str) -> dict[str, dict[str, Any]]:
        """The items of the same response by their ids, in which the response's own stands."""
        response_id = f"resp_{item_id.partition('_')[2][:RESPONSE_ID_LENGTH]}"
        kept = await self._store.find(self._owner, response_id)
        return {item["id"]: item for item in kept.items()} if kept else {}

    def _not_found(self, response_id: str) -> APIError:
        message = f"The response '{response_id}' is not kept here, or no longer."
        if not self.are_kept:
            message = "This server keeps no responses."
        return APIError(404, message, param="response_id", code="response_not_found")


async def _conversations(request: Request, exchange: ExchangeDep) -> Conversations:
    return Conversations(request, exchange)


ConversationsDep = Annotated[Conversations, Depends(_conversations)]
