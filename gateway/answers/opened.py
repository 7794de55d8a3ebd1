"""An answer under way: how long it is waited for, and that nothing of it is left running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import anyio

from gateway.deps import Exchange
from gateway.errors import ClientLeft
from worker.protocol import Accepted, Event, WorkerFailed

T = TypeVar("T")

Batches = AsyncGenerator[list[Event]]


class OpenedStream:
    """A worker's events whose first batch has been awaited, as long as a status can still say no.

    A worker that is slow to accept (a container's cold start) does not hold the response back longer
    than `timeout` seconds: the stream then opens, and heartbeats bridge the wait.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._first: asyncio.Future[list[Event]] = asyncio.ensure_future(anext(batches))

    async def accepted(self, timeout: float) -> None:
        """Raise what the worker answered instead of accepting, if it did so in time."""
        done, _ = await asyncio.wait({self._first}, timeout=timeout)
        if done:
            self._first.result()

    def ignored(self) -> tuple[str, ...]:
        """The parameters that the worker has no use for, as far as it has answered."""
        events = self._first.result() if self._first.done() else []
        return next((event.ignored for event in events if isinstance(event, Accepted)), ())

    async def __aiter__(self) -> Batches:
        yield await self._first
        async for batch in self._batches:
            yield batch

    async def aclose(self) -> None:
        """Abort the generation, wherever it is. Safe in every state, and shielded from cancellation."""
        with anyio.CancelScope(shield=True):
            if not self._first.done():
                self._first.cancel()
            with contextlib.suppress(BaseException):
                await self._first
            await self._batches.aclose()


async def open_stream(exchange: Exchange, batches: Batches) -> OpenedStream:
    """A stream that the worker has accepted. Raises its refusal, or as `unless_ended` does; leaves nothing
    running."""
    opened = OpenedStream(batches)
    try:
        await unless_ended(exchange, opened.accepted(exchange.gateway.settings.first_event_seconds))
    except BaseException:
        await opened.aclose()
        raise
    return opened


async def unless_ended(exchange: Exchange, answer: Coroutine[Any, Any, T]) -> T:
    """Await `answer`, but no longer than anybody waits for it or can.

    Cancels it and raises ClientLeft when the client disconnects, WorkerFailed when a stopping server's grace
    is over.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(exchange.disconnected())
    late = asyncio.ensure_future(exchange.gateway.grace_is_over())
    try:
        await asyncio.wait({task, gone, late}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft if gone.done() else shutting_down()
    finally:
        gone.cancel()
        late.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def shutting_down() -> WorkerFailed:
    return WorkerFailed("The server is shutting down and could not finish this answer. Please send it again.")
