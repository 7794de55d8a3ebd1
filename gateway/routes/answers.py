"""How a chat request is answered, once it is translated: whole, or as a stream."""

from __future__ import annotations

from contextlib import aclosing

import orjson
from fastapi import Request, Response

from gateway import translate
from gateway.context import Gateway
from gateway.sse import EventStreamResponse, open_stream, unless_client_leaves
from gateway.telemetry import CompletionLog
from worker.protocol import ChatRequest


async def collect(request: Request, gateway: Gateway, chat_request: ChatRequest) -> translate.Collector:
    """All of the answer. A client that leaves aborts it."""
    log = CompletionLog(chat_request.model)
    collector = translate.Collector(chat_request.n)

    async def read() -> None:
        async with aclosing(gateway.backend.chat(chat_request)) as batches:
            async for batch in batches:
                collector.add(batch)
                log.observe(batch)

    await unless_client_leaves(request, read())
    return collector


async def answer_json(request: Request, gateway: Gateway, chat_request: ChatRequest) -> Response:
    collector = await collect(request, gateway, chat_request)
    reply = translate.Reply(chat_request.model, "chat.completion")
    return Response(orjson.dumps(collector.completion(reply)), media_type="application/json")


async def answer_stream(
    request: Request, gateway: Gateway, chat_request: ChatRequest, include_usage: bool
) -> Response:
    """The stream opens once the worker has accepted, so that a refusal still has its status."""
    batches = gateway.backend.chat(chat_request)
    opened = await open_stream(request, batches, gateway.settings.first_event_seconds)
    encoder = translate.ChunkEncoder(
        translate.Reply(chat_request.model, "chat.completion.chunk"), include_usage
    )
    log = CompletionLog(chat_request.model)
    return EventStreamResponse(opened, encoder, chat_request.n, gateway.settings, log.observe)
