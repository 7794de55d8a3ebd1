"""How many tokens a prompt has, as its model's template renders it."""

from __future__ import annotations

from contextlib import aclosing

from typing_extensions import TypedDict

from gateway.answers.opened import unless_ended
from gateway.deps import Exchange
from worker.protocol import Accepted, ChatRequest, WorkerFailed


class MessageTokensCount(TypedDict):
    input_tokens: int


async def count_tokens(exchange: Exchange, request: ChatRequest) -> MessageTokensCount:
    """Raises the worker's refusal of what it could not answer either."""

    async def count() -> int:
        async with aclosing(exchange.gateway.backend.chat(request)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, Accepted):
                        return event.prompt_tokens
        raise WorkerFailed("The worker ended before it had counted. Send the request again.")

    return {"input_tokens": await unless_ended(exchange, count())}
