"""How a request is answered, once it is translated: whole, or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import orjson
from fastapi import Request, Response

from gateway.answers.stream import EventStreamResponse, open_stream, unless_ended
from gateway.deps import Gateway
from gateway.openai.chat.reply import Collector, StreamEncoder
from gateway.ops.logs import CompletionLog
from worker.protocol import Request as WorkerRequest

IGNORED_HEADER = "x-ignored-parameters"
_MAX_HEADER = 2000  # characters; clients and proxies give up on headers much larger


@dataclass(frozen=True, slots=True)
class Asked:
    """A worker's request, the parameters that it leaves out, and the two shapes of its answer."""

    request: WorkerRequest
    num_choices: int
    ignored: tuple[str, ...]
    encoder: StreamEncoder
    whole: Callable[[Collector], dict[str, Any]]


async def answer(request: Request, gateway: Gateway, asked: Asked) -> Response:
    if asked.request.stream:
        return await _answer_stream(request, gateway, asked)
    collector = await collect(request, gateway, asked.request, asked.num_choices)
    headers = ignored_header((*asked.ignored, *collector.ignored))
    return Response(orjson.dumps(asked.whole(collector)), headers=headers, media_type="application/json")


async def collect(
    request: Request, gateway: Gateway, worker_request: WorkerRequest, num_choices: int
) -> Collector:
    """All of the answer. A client that leaves aborts it, and so does a server that stops."""
    log = CompletionLog(worker_request.model)
    collector = Collector(num_choices)

    async def read() -> None:
        async with aclosing(gateway.backend.chat(worker_request)) as batches:
            async for batch in batches:
                collector.add(batch)
                log.observe(batch)

    await unless_ended(request, gateway, read())
    collector.check_complete()
    return collector


async def _answer_stream(request: Request, gateway: Gateway, asked: Asked) -> Response:
    """The stream opens once the worker has accepted, so that a refusal still has its status."""
    opened = await open_stream(request, gateway, gateway.backend.chat(asked.request))
    response = EventStreamResponse(
        opened,
        asked.encoder,
        asked.num_choices,
        gateway,
        CompletionLog(asked.request.model).observe,
    )
    response.headers.update(ignored_header((*asked.ignored, *opened.ignored())))
    return response


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """The parameters that had no effect, as many as fit; names that no header can carry are quoted."""
    quoted = [name if name.isascii() and name.isprintable() else ascii(name)[1:-1] for name in names]
    ends = accumulate(len(name) + len(", ") for name in quoted)
    shown = [name for name, end in zip(quoted, ends, strict=True) if end <= _MAX_HEADER]
    more = ["..."] if len(shown) < len(quoted) else []
    return {IGNORED_HEADER: ", ".join(shown + more)} if quoted else {}
