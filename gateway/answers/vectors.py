"""How a request for vectors is answered: all at once, unless the client leaves first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass

from gateway.answers.opened import unless_ended
from gateway.deps import Exchange
from worker.protocol import Embedded, EmbeddingRequest, Usage, WorkerFailed


@dataclass(frozen=True, slots=True)
class VectorAnswer:
    """`num_tokens` are those of all inputs."""

    embedded: Embedded
    num_tokens: int

    def rows(self) -> Iterator[bytes]:
        """Each input's vector, as float32, little endian."""
        size = 4 * self.embedded.dimensions
        for start in range(0, len(self.embedded.vectors), size):
            yield self.embedded.vectors[start : start + size]


async def vectors(exchange: Exchange, request: EmbeddingRequest) -> VectorAnswer:
    """A client that leaves aborts it, and so does a server that stops. Raises the worker's refusal."""
    exchange.record.asks(request, exchange.gateway.settings.log_prompts)
    return await unless_ended(exchange, _collect(exchange, request))


async def _collect(exchange: Exchange, request: EmbeddingRequest) -> VectorAnswer:
    embedded: Embedded | None = None
    usage = Usage(0, 0)
    async with aclosing(exchange.gateway.backend.chat(request)) as batches:
        async for batch in batches:
            exchange.record.observe(batch)
            for event in batch:
                if isinstance(event, Embedded):
                    embedded = event
                elif isinstance(event, Usage):
                    usage = event
    if embedded is None:
        raise WorkerFailed("The worker ended before the answer was complete. Send the request again.")
    return VectorAnswer(embedded, usage.prompt_tokens)
