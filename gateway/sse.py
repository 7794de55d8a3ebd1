"""One answer as a stream of server-sent events, from opening it to the client's leaving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from gateway.errors import from_exception
from gateway.settings import GatewaySettings
from gateway.translate import DONE, StreamEncoder, error_frame
from worker.protocol import Accepted, Event, WorkerFailed

T = TypeVar("T")

Batches = AsyncGenerator[list[Event]]


class ClientLeft(Exception):
    """The client went away before it was answered; there is nobody to answer any more."""


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


async def open_stream(request: Request, batches: Batches, timeout: float) -> OpenedStream:
    """A stream that the worker has accepted. Raises its refusal, or ClientLeft; leaves nothing running."""
    opened = OpenedStream(batches)
    try:
        await unless_client_leaves(request, opened.accepted(timeout))
    except BaseException:
        await opened.aclose()
        raise
    return opened


class EventStreamResponse(EventSourceResponse):
    """Frames from `opened`, heartbeats between them, and never an end without a reason.

    The response owns the stream: whichever way it ends, the generation behind it does too.
    """

    def __init__(
        self,
        opened: OpenedStream,
        encoder: StreamEncoder,
        num_choices: int,
        settings: GatewaySettings,
        observe: Callable[[list[Event]], None],
    ) -> None:
        self._opened = opened
        self._encoder, self._num_choices, self._observe = encoder, num_choices, observe
        self._stopping = anyio.Event()
        self._grace = settings.shutdown_grace_seconds
        self._consumer: asyncio.Task[None] | None = None
        self._out_of_time = False
        super().__init__(
            self._frames(),
            headers={"Cache-Control": "no-cache"},
            ping=settings.heartbeat_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            data_sender_callable=self._end_on_shutdown,
            shutdown_event=self._stopping,
            shutdown_grace_period=self._grace + 1,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._opened.aclose()

    async def _frames(self) -> AsyncGenerator[bytes]:
        self._consumer = asyncio.current_task()
        if opening := self._encoder.opening(self._num_choices):
            yield opening
        try:
            async for batch in self._opened:
                self._observe(batch)
                if frames := self._encoder.encode(batch):
                    yield frames
            self._encoder.check_complete()
        except asyncio.CancelledError:
            if not self._out_of_time:
                raise
            message = "The server is shutting down and could not finish this answer. Please send it again."
            yield error_frame(from_exception(WorkerFailed(message)))
        except Exception as error:  # The status is sent: whatever failed has to be told as an event.
            yield error_frame(from_exception(error))
        else:
            yield DONE

    async def _end_on_shutdown(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._grace)
        self._out_of_time = True
        if self._consumer:
            self._consumer.cancel()


async def unless_client_leaves(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Await `answer`, but cancel it as soon as the client disconnects. Raises ClientLeft then."""
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
