"""The worker on Modal: a remote call there, events back, and an abort that reaches it in-band."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import modal
import structlog

from worker.protocol import Batch, Event, ModelInfo, Request, WorkerFailed

ABORT_TTL_SECONDS = 3600  # an abort outlives the longest queueing, not the day

log = structlog.get_logger("gateway")


class ModalBackend:
    """Calls `chat` of the worker class that serves the request's model.

    Cancelling a generator's input from outside gets its container killed, siblings included
    (modal-client#4125), and a consumer that stops iterating tells nobody. So an abort is a message: the
    request's id as partition of a queue that the worker watches from the moment it takes the request.
    """

    def __init__(
        self,
        worker: Callable[[str], Any],
        aborts: modal.Queue,
        models: Callable[[], Awaitable[Sequence[ModelInfo]]],
    ) -> None:
        self._worker, self._aborts, self._models = worker, aborts, models
        self._sending: set[asyncio.Task[None]] = set()

    async def models(self) -> Sequence[ModelInfo]:
        return await self._models()

    async def check(self) -> None:
        """Workers come and go by demand; the gateway is healthy without one."""

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        attempt, ended = None, False
        batches: AsyncGenerator[Batch] = self._worker(request.model).chat.remote_gen.aio(request)
        try:
            async for batch in batches:
                if attempt not in (None, batch.attempt):
                    raise WorkerFailed("The worker was lost in the middle of this answer. Send it again.")
                attempt = batch.attempt
                if batch.events:
                    yield list(batch.events)
                if batch.error is not None:
                    ended = True
                    raise batch.error
            ended = True
        except modal.exception.Error as error:
            log.error("worker_lost", exc_info=error)
            raise WorkerFailed(
                "The worker was lost before this answer was complete. Send it again."
            ) from error
        finally:
            if not ended:
                self._abort(request.request_id)

    def _abort(self, request_id: str) -> None:
        """Detached, because whoever closes the stream may be cancelled while doing so."""
        sending = asyncio.ensure_future(
            self._aborts.put.aio(True, partition=request_id, partition_ttl=ABORT_TTL_SECONDS)
        )
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
