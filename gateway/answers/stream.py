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

from gateway.deps import Gateway
from gateway.errors import from_exception
from gateway.openai.chat.reply import DONE, StreamEncoder, error_frame
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


async def open_stream(request: Request, gateway: Gateway, batches: Batches) -> OpenedStream:
    """A stream that the worker has accepted. Raises its refusal, or as `unless_ended` does; leaves nothing
    running."""
    opened = OpenedStream(batches)
    try:
        await unless_ended(request, gateway, opened.accepted(gateway.settings.first_event_seconds))
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
        gateway: Gateway,
        observe: Callable[[list[Event]], None],
    ) -> None:
        self._opened = opened
        self._encoder, self._num_choices, self._observe = encoder, num_choices, observe
        self._gateway = gateway
        self._consumer: asyncio.Task[None] | None = None
        self._out_of_time = False
        super().__init__(
            self._frames(),
            headers={"Cache-Control": "no-cache"},
            ping=gateway.settings.heartbeat_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            data_sender_callable=self._end_on_shutdown,
            # The base class cancels without a word: not before the error has been told.
            shutdown_grace_period=gateway.settings.shutdown_grace_seconds + 1,
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
            yield error_frame(from_exception(_shutting_down()))
        except Exception as error:  # The status is sent: whatever failed has to be told as an event.
            yield error_frame(from_exception(error))
        else:
            yield DONE

    async def _end_on_shutdown(self) -> None:
        await self._gateway.grace_is_over()
        self._out_of_time = True
        if self._consumer:
            self._consumer.cancel()


async def unless_ended(request: Request, gateway: Gateway, answer: Coroutine[Any, Any, T]) -> T:
    """Await `answer`, but no longer than anybody waits for it or can.

    Cancels it and raises ClientLeft when the client disconnects, WorkerFailed when a stopping server's grace
    is over.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    late = asyncio.ensure_future(gateway.grace_is_over())
    try:
        await asyncio.wait({task, gone, late}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft if gone.done() else _shutting_down()
    finally:
        gone.cancel()
        late.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _shutting_down() -> WorkerFailed:
    return WorkerFailed("The server is shutting down and could not finish this answer. Please send it again.")


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
