"""One answer as a stream of server-sent events, from opening it to the client's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway.answers.encoder import Encoder
from gateway.answers.opened import OpenedStream, shutting_down
from gateway.deps import Exchange
from gateway.errors import from_exception


class EventStreamResponse(EventSourceResponse):
    """What `encoder` makes of `opened`, heartbeats between, and never an end without a reason.

    The response owns the stream: whichever way it ends, the generation behind it does too.
    """

    def __init__(self, opened: OpenedStream, encoder: Encoder, exchange: Exchange) -> None:
        self._opened, self._encoder = opened, encoder
        self._gateway, self._record = exchange.gateway, exchange.record
        self._consumer: asyncio.Task[None] | None = None
        self._out_of_time = False
        self._is_told = False  # how it ended
        super().__init__(
            self._frames(),
            headers={"Cache-Control": "no-cache"},
            ping=exchange.gateway.settings.heartbeat_seconds,
            ping_message_factory=encoder.heartbeat,  # type: ignore[arg-type]  # bytes are sent as they are
            data_sender_callable=self._end_on_shutdown,
            # The base class cancels without a word: not before the error has been told.
            shutdown_grace_period=exchange.gateway.settings.shutdown_grace_seconds + 1,
        )
        del self.headers["connection"]  # whether it is kept, the server knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._record.client_left = not self._is_told
            await self._opened.aclose()

    async def _frames(self) -> AsyncGenerator[bytes]:
        self._consumer = asyncio.current_task()
        if opening := self._encoder.opening():
            yield opening
        try:
            async for batch in self._opened:
                if frames := self._encoder.events(batch):
                    yield frames
        except asyncio.CancelledError:
            if not self._out_of_time:
                raise
            yield self._error(shutting_down())
        except Exception as error:  # The status is sent: whatever failed has to be told as an event.
            yield self._error(error)
        else:
            end = self._encoder.end()
            await self._encoder.finished()
            self._is_told = True
            yield end

    def _error(self, error: Exception) -> bytes:
        told = from_exception(error)
        self._record.error = told.code
        self._is_told = True
        return self._encoder.error(told)

    async def _end_on_shutdown(self) -> None:
        await self._gateway.grace_is_over()
        self._out_of_time = True
        if self._consumer:
            self._consumer.cancel()
