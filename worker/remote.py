"""A worker's answer as it leaves its container: in batches, and abortable from another one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable

from worker.protocol import Batch, Event, Request, WorkerError
from worker.service import Worker

WaitForAbort = Callable[[str], Awaitable[object]]


async def answer(worker: Worker, request: Request, aborted: WaitForAbort) -> AsyncGenerator[Batch]:
    """The request's events, each batch holding all that has accumulated while the last one travelled.

    `aborted(request_id)` returns when the client has gone; the generation then ends at once and the
    generator returns normally, because cancelling an input from outside costs the whole container.
    Without `request.stream` there is one batch, so that a restarted request cannot be spliced.
    """
    attempt = secrets.token_hex(8)
    outbox: asyncio.Queue[list[Event] | WorkerError | None] = asyncio.Queue()
    generation = asyncio.ensure_future(_run(worker, request, outbox))
    watch = asyncio.ensure_future(aborted(request.request_id))
    watch.add_done_callback(lambda _: generation.cancel())
    held: list[Event] = []
    try:
        while True:
            ended, error = False, None
            for item in await _accumulated(outbox):
                match item:
                    case None:
                        ended = True
                    case WorkerError():
                        error = item
                    case events:
                        held += events
            if request.stream or ended:
                yield Batch(attempt, held, error)
                held = []
            if ended:
                return
    finally:
        watch.cancel()
        generation.cancel()


async def _run(
    worker: Worker, request: Request, outbox: asyncio.Queue[list[Event] | WorkerError | None]
) -> None:
    try:
        async for events in worker.chat(request):
            outbox.put_nowait(events)
    except WorkerError as error:
        outbox.put_nowait(error)
    finally:
        outbox.put_nowait(None)


async def _accumulated(
    outbox: asyncio.Queue[list[Event] | WorkerError | None],
) -> list[list[Event] | WorkerError | None]:
    items = [await outbox.get()]
    while not outbox.empty():
        items.append(outbox.get_nowait())
    return items
