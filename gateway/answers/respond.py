"""How a request is answered, once it is translated: whole, or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import accumulate

from fastapi import Response

from gateway.answers.encoder import Encoder
from gateway.answers.opened import Batches, open_stream, unless_ended
from gateway.answers.stream import EventStreamResponse
from gateway.answers.whole import WholeAnswer
from gateway.deps import Exchange
from worker.protocol import ChatRequest, CompletionRequest, InvalidRequest, WorkerFailed

IGNORED_HEADER = "x-ignored-parameters"
_MAX_HEADER = 2000  # characters; clients and proxies give up on headers much larger


@dataclass(frozen=True, slots=True)
class Asked:
    """A worker's request, the number of choices in its answer, and the parameters that it leaves out.

    `names` are the API's own for what the worker calls as OpenAI's chats do, such as `messages`.
    """

    request: ChatRequest | CompletionRequest
    num_choices: int = 1
    ignored: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, param: str | None) -> str | None:
        return None if param is None else self.names.get(param, param)


async def respond(exchange: Exchange, asked: Asked, encoder: Encoder) -> Response:
    """A stream opens once the worker has accepted, so that a refusal still has its status."""
    if asked.request.stream:
        opened = await open_stream(exchange, _batches(exchange, asked))
        response: Response = EventStreamResponse(opened, encoder, exchange)
        ignored = opened.ignored()
    else:
        answer = await collect(exchange, asked)
        response = Response(encoder.whole(answer), media_type="application/json")
        await encoder.finished()
        ignored = answer.ignored
    named = [asked.names.get(name, name) for name in ignored]
    response.headers.update(ignored_header((*asked.ignored, *named)))
    return response


async def collect(exchange: Exchange, asked: Asked) -> WholeAnswer:
    """All of the answer. A client that leaves aborts it, and so does a server that stops."""
    answer = WholeAnswer(asked.num_choices)

    async def read() -> None:
        async with aclosing(_batches(exchange, asked)) as batches:
            async for batch in batches:
                answer.add(batch)

    await unless_ended(exchange, read())
    return answer


async def _batches(exchange: Exchange, asked: Asked) -> Batches:
    """The worker's events, recorded. They never just end: clients take that for a finished answer."""
    record = exchange.record
    request = replace(asked.request, client=exchange.caller.name)
    record.asks(request, exchange.gateway.settings.log_prompts)
    try:
        async with aclosing(exchange.gateway.backend.chat(request)) as batches:
            async for batch in batches:
                record.observe(batch)
                yield batch
    except InvalidRequest as error:
        if (name := asked.name(error.param)) == error.param:
            raise
        raise InvalidRequest(error.message, name, error.code) from error
    if len(record.finish_reasons) < asked.num_choices:
        raise WorkerFailed("The worker ended before the answer was complete. Send the request again.")


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """The parameters that had no effect, as many as fit; names that no header can carry are quoted."""
    quoted = [name if name.isascii() and name.isprintable() else ascii(name)[1:-1] for name in names]
    ends = accumulate(len(name) + len(", ") for name in quoted)
    shown = [name for name, end in zip(quoted, ends, strict=True) if end <= _MAX_HEADER]
    more = ["..."] if len(shown) < len(quoted) else []
    return {IGNORED_HEADER: ", ".join(shown + more)} if quoted else {}
