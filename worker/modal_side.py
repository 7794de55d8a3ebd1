"""A worker's answer as it leaves its container: in batches, and abortable from another one."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from worker.embedding_service import EmbeddingWorker
from worker.protocol import Batch, Event, Request, WorkerError, WorkerFailed, WorkerStats
from worker.service import Worker

log = logging.getLogger("worker")

WaitForAbort = Callable[[str], Awaitable[object]]
Retire = Callable[[], Awaitable[object]]
Outbox = asyncio.Queue[list[Event] | WorkerError | None]  # None: nothing more will come


class RemoteWorker:
    """A worker as other containers call it.

    `aborted(request_id)` returns when the client has gone; the generation then ends at once and the
    generator returns normally, because cancelling an input from outside costs the whole container. So does
    Modal's own timeout of an input: an answer that takes longer than `seconds` is ended here, with an error.
    `retire()` takes this container out of service, which is called after an answer when the engine has died:
    a worker that fails every request at once would draw more of them than those that work. `id` is what the
    gateway's figures call this worker.
    """

    # What all streams of a container send together. Each batch costs Modal's runtime about 2 ms of CPU, here
    # under the lock that the engine's Python needs, and in the gateway, which has a quarter of a core for it.
    BATCHES_PER_SECOND = 100.0
    SECONDS_BETWEEN_SIGNS = 4.0  # of life, in a stream that has no text to send
    SECONDS_BETWEEN_STATS = 1.0
    SECONDS_BETWEEN_WATCHES = 1.0  # when the queue service fails, which it does to all streams at once

    def __init__(
        self,
        worker: Worker | EmbeddingWorker,
        aborted: WaitForAbort,
        retire: Retire,
        seconds: float,
        id: str = "modal",
    ) -> None:
        self._worker, self._aborted, self._retire, self._seconds = worker, aborted, retire, seconds
        self._id = id
        self._num_streams = 0
        self._said_stats = -float("inf")

    async def chat(self, request: Request) -> AsyncGenerator[Batch]:
        """The request's events, each batch holding all that has accumulated since the last one.

        Without `request.stream` there is one batch, so that a restarted request cannot be spliced.
        """
        attempt = secrets.token_hex(8)
        outbox: Outbox = asyncio.Queue()
        generation = asyncio.ensure_future(self._generate(request, outbox))
        watch = asyncio.ensure_future(self._end_on_abort(request, generation))
        held: list[Event] = []
        num_sent = 0
        self._num_streams += request.stream
        try:
            while True:
                ended, error = False, None
                for item in await self._accumulated(outbox, request.stream):
                    match item:
                        case None:
                            ended = True
                        case WorkerError():
                            error = item
                        case events:
                            held += events
                if request.stream or ended:
                    started = time.monotonic()
                    yield Batch(attempt, held, error, await self._stats(ended))
                    held = []
                    num_sent += 1
                if ended:
                    log.info("request %s ended: %s", request.request_id, error or "complete")
                    if not self._worker.alive:
                        log.error("the engine has died: this container takes no more requests")
                        await self._retire()
                    return
                # The first batch says that the request was accepted, the second has the first text.
                if num_sent > 1:
                    pause = self._num_streams / self.BATCHES_PER_SECOND - (time.monotonic() - started)
                    await asyncio.wait({generation}, timeout=max(0.0, pause))
        finally:
            self._num_streams -= request.stream
            watch.cancel()
            generation.cancel()

    async def _accumulated(self, outbox: Outbox, stream: bool) -> list[list[Event] | WorkerError | None]:
        """What has come; of a stream in which nothing comes, nothing, as a sign of life."""
        try:
            async with asyncio.timeout(self.SECONDS_BETWEEN_SIGNS if stream else None):
                items = [await outbox.get()]
        except TimeoutError:
            return []
        while not outbox.empty():
            items.append(outbox.get_nowait())
        return items

    async def _stats(self, ended: bool) -> WorkerStats | None:
        """With an answer's last batch, since nothing may follow it, and with others now and then."""
        if not ended and time.monotonic() - self._said_stats < self.SECONDS_BETWEEN_STATS:
            return None
        self._said_stats = time.monotonic()
        stats = next(iter(await self._worker.stats()), None)
        return stats and replace(stats, id=self._id)

    async def _end_on_abort(self, request: Request, generation: asyncio.Future[None]) -> None:
        """A watch that fails says nothing of the client, so it begins anew and the answer goes on."""
        while True:
            try:
                await self._aborted(request.request_id)
            except Exception as error:
                log.warning(
                    "cannot learn whether %s was aborted, asking again: %r", request.request_id, error
                )
                await asyncio.sleep(self.SECONDS_BETWEEN_WATCHES)
            else:
                generation.cancel()
                return

    async def _generate(self, request: Request, outbox: Outbox) -> None:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                async for events in self._worker.chat(request):
                    outbox.put_nowait(events)
        except WorkerError as error:
            outbox.put_nowait(error)
        except Exception:
            outbox.put_nowait(self._too_long() if limit.expired() else _unexpected(request))
        finally:
            outbox.put_nowait(None)

    def _too_long(self) -> WorkerFailed:
        return WorkerFailed(
            f"The answer took longer than {self._seconds:g} seconds, the most it may take here. "
            "Ask for fewer tokens with max_tokens, or deploy with a larger REQUEST_TIMEOUT."
        )


def _unexpected(request: Request) -> WorkerFailed:
    """What the client is told of the exception being handled; the log has the rest."""
    log.exception("request %s failed", request.request_id)
    return WorkerFailed("The worker failed on this request. Its log has the details under the request's id.")
