"""The worker on Modal: a remote call there, events back, and an abort that reaches it in-band."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import modal
import structlog

from worker.protocol import (
    Batch,
    Event,
    ModelInfo,
    Overloaded,
    Request,
    WorkerError,
    WorkerFailed,
    WorkerStats,
)

ABORT_TTL_SECONDS = 3600  # an abort outlives the longest queueing, not the day

SURELY_RUNNING_SECONDS = 2.0  # since a worker was last heard of: the shortest SCALEDOWN_WINDOW
STATS_SECONDS = 300.0  # after which a worker that was not heard of again has no figures

log = structlog.get_logger("gateway")

SECONDS_UNTIL_LOST = (
    15.0  # of silence in a stream, in which a worker that lives sends a sign every few seconds
)
SECONDS_UNTIL_RETRY = 5.0

Inbox = asyncio.Queue[Batch | WorkerError | None]


class ModalBackend:
    """Calls `chat` of the worker class that serves the request's model.

    Cancelling a generator's input from outside gets its container killed, siblings included
    (modal-client#4125), and a consumer that stops iterating tells nobody. So an abort is a message: the
    request's id as partition of a queue that the worker watches from the moment it takes the request. The
    call itself is read by a task of its own, which nobody cancels: it ends when the worker's generator does.

    `most_under_way(model)` calls may run, or wait for a worker that Modal starts meanwhile.
    """

    def __init__(
        self,
        worker: Callable[[str], Any],
        aborts: modal.Queue,
        models: Callable[[], Awaitable[Sequence[ModelInfo]]],
        most_under_way: Callable[[str], int],
    ) -> None:
        self._worker, self._aborts, self._models = worker, aborts, models
        self._most_under_way = most_under_way
        self._num_under_way: Counter[str] = Counter()
        self._heard: dict[str, float] = {}  # when a model's worker last sent something
        self._stats: dict[str, tuple[float, WorkerStats]] = {}  # and what it said of itself, by its id
        self._detached: set[asyncio.Task[None]] = set()

    async def models(self) -> Sequence[ModelInfo]:
        return await self._models()

    async def check(self) -> None:
        """Workers come and go by demand; the gateway is healthy without one."""

    async def not_ready(self) -> Sequence[str]:
        """None: a request starts a worker where there is none."""
        return []

    async def stats(self) -> Sequence[WorkerStats]:
        """As they came along with answers; of workers that were heard of lately."""
        oldest = time.monotonic() - STATS_SECONDS
        self._stats = {id: known for id, known in self._stats.items() if known[0] >= oldest}
        return [stats for _, stats in self._stats.values()]

    async def running_models(self) -> Sequence[str]:
        now = time.monotonic()
        return [model for model, heard in self._heard.items() if now - heard < SURELY_RUNNING_SECONDS]

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        model = request.model
        if self._num_under_way[model] >= (most := self._most_under_way(model)):
            raise Overloaded(
                f"{most} requests for {model} are under way or wait for a worker, the most that are taken "
                "here. Send it again later, or deploy with more MAX_CONTAINERS or LLM_MAX_WAITING.",
                SECONDS_UNTIL_RETRY,
            )
        self._num_under_way[model] += 1
        try:
            async with aclosing(self._events(request)) as batches:
                async for events in batches:
                    yield events
        finally:
            self._num_under_way[model] -= 1

    async def _events(self, request: Request) -> AsyncGenerator[list[Event]]:
        inbox: Inbox = asyncio.Queue()
        self._detach(self._call(request, inbox))
        attempt, ended = None, False
        try:
            while (item := await self._next(inbox, request.stream and attempt is not None)) is not None:
                if isinstance(item, WorkerError):
                    raise item
                if attempt not in (None, item.attempt):
                    raise WorkerFailed("The worker was lost in the middle of this answer. Send it again.")
                attempt = item.attempt
                if item.events:
                    yield list(item.events)
                if item.error is not None:
                    ended = True
                    raise item.error
            ended = True
        finally:
            if not ended:
                self._detach(self._abort(request.request_id))

    async def _next(self, inbox: Inbox, signs_expected: bool) -> Batch | WorkerError | None:
        """Modal tells of a dead container only when its replacement has started; its silence is sooner."""
        try:
            async with asyncio.timeout(SECONDS_UNTIL_LOST if signs_expected else None):
                return await inbox.get()
        except TimeoutError:
            raise WorkerFailed("The worker was lost in the middle of this answer. Send it again.") from None

    def _note(self, model: str, stats: WorkerStats | None) -> None:
        now = self._heard[model] = time.monotonic()
        if stats is not None:
            self._stats[stats.id] = now, stats

    async def _call(self, request: Request, inbox: Inbox) -> None:
        try:
            batches: AsyncGenerator[Batch] = self._worker(request.model).chat.remote_gen.aio(request)
            async for batch in batches:
                self._note(request.model, batch.stats)
                inbox.put_nowait(batch)
            inbox.put_nowait(None)
        except WorkerFailed as error:  # what a container that could not start says
            inbox.put_nowait(error)
        except modal.exception.ResourceExhaustedError as error:
            log.error("modal_limit", exc_info=error)
            inbox.put_nowait(
                Overloaded(
                    "Modal takes no more calls of this workspace right now, by a rate limit or a quota: "
                    f"{error}. Send it again later, or have the limit raised at Modal.",
                    SECONDS_UNTIL_RETRY,
                )
            )
        except Exception as error:  # Modal's own errors, and whatever else came out of the container
            log.error("worker_lost", exc_info=error)
            inbox.put_nowait(
                WorkerFailed("The worker was lost before this answer was complete. Send it again.")
            )

    async def _abort(self, request_id: str) -> None:
        await self._aborts.put.aio(True, partition=request_id, partition_ttl=ABORT_TTL_SECONDS)

    def _detach(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run to its end, whatever becomes of the request; the set keeps the task from being collected."""
        task = asyncio.ensure_future(coroutine)
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)


class ModalBatches:
    """Files on a Volume, and for each batch a call of `spawn`, which Modal sees to its end."""

    def __init__(
        self,
        spawn: Callable[[str, str], Awaitable[object]],
        cancelled: modal.Queue,
        volume: modal.Volume,
    ) -> None:
        self._spawn, self._cancelled, self._volume = spawn, cancelled, volume

    async def run(self) -> None:
        """Nothing runs here."""

    async def start(self, owner: str, batch_id: str) -> None:
        await self._spawn(owner, batch_id)

    async def cancel(self, owner: str, batch_id: str) -> None:
        await self._cancelled.put.aio(True, partition=batch_id, partition_ttl=ABORT_TTL_SECONDS)

    async def reload(self) -> None:
        try:
            await self._volume.reload.aio()  # type: ignore[no-untyped-call]
        except Exception as error:  # a file is being read, for one, and Modal reloads no Volume under it
            log.warning("volume_not_reloaded", error=str(error))

    async def commit(self) -> None:
        await self._volume.commit.aio()  # type: ignore[no-untyped-call]
