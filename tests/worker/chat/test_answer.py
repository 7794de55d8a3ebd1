"""The choices of one request, side by side: one's failure is everybody's end, and nobody holds a slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from worker.chat.answer import Answer, PlainReader
from worker.engine.sequence import Output
from worker.protocol import Event, Finished, TextDelta, WorkerFailed


class ScriptedStream:
    """A completion whose outputs are given; without an end it waits for ever."""

    def __init__(self, *outputs: Output) -> None:
        self.aborted = False
        self._outputs = list(outputs)

    def abort(self) -> None:
        self.aborted = True

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if not self._outputs:
            await asyncio.Event().wait()
        return self._outputs.pop(0)


def answer_of(*streams: ScriptedStream) -> Answer:
    answer = Answer(len)
    for index, stream in enumerate(streams):
        answer.add(stream, PlainReader(index))  # type: ignore[arg-type]
    return answer


def test_a_choice_that_fails_does_not_wait_for_the_others() -> None:
    failing = ScriptedStream(Output("a"), Output(error=WorkerFailed("broken")))
    endless = ScriptedStream(Output("b"))
    received: list[Event] = []

    async def read() -> None:
        async for events in answer_of(endless, failing).events():
            received.extend(events)

    with pytest.raises(WorkerFailed, match="broken"):
        asyncio.run(asyncio.wait_for(read(), 10))
    assert received == [TextDelta(0, "b"), TextDelta(1, "a")]


def test_what_is_not_wanted_any_more_stops_before_the_client_has_read_the_end() -> None:
    stream = ScriptedStream(Output("a"))
    answer = Answer(len)
    reader = PlainReader(0, done=True)
    answer.add(stream, reader)  # type: ignore[arg-type]

    async def first() -> list[Event]:
        events = await anext(answer.events())
        assert stream.aborted
        return events

    assert asyncio.run(first()) == [TextDelta(0, "a"), Finished(0, "stop")]
