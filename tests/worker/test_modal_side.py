"""How a worker's events leave its container: in batches, within what Modal's runtime can carry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from tests.worker.engine.fake_runner import make_engine
from worker.modal_side import RemoteWorker
from worker.protocol import (
    Accepted,
    Batch,
    ChatRequest,
    Event,
    Finished,
    Request,
    TextDelta,
    WorkerFailed,
    WorkerStats,
)

LONG = 600.0
TEXT = [f"{i} " for i in range(60)]


class TellsOfItself:
    """What every worker says along with its answers."""

    async def stats(self) -> list[WorkerStats]:
        return [WorkerStats("w", "model", make_engine().stats())]


class FastWorker(TellsOfItself):
    """Writes TEXT, a word at a time and faster than anybody could carry it away; then may raise `error`."""

    def __init__(self, error: Exception | None = None, alive: bool = True) -> None:
        self.error, self.alive = error, alive

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        yield [Accepted(3)]
        for text in TEXT:
            await asyncio.sleep(0.002)
            yield [TextDelta(0, text)]
        if self.error:
            raise self.error
        yield [Finished(0, "stop")]


class StuckWorker(TellsOfItself):
    """Accepts, writes a word, and then nothing more; `freed` when it was made to end."""

    alive = True

    def __init__(self) -> None:
        self.freed = False

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        try:
            yield [Accepted(3)]
            yield [TextDelta(0, "word")]
            await asyncio.Event().wait()
        finally:
            self.freed = True


async def never(request_id: str) -> None:
    await asyncio.Event().wait()


async def stay() -> None:
    raise AssertionError("this worker is alive")


def request(stream: bool = True) -> ChatRequest:
    return ChatRequest("id", "model", [{"role": "user", "content": "Hi"}], stream=stream)


async def batches(remote: RemoteWorker, stream: bool = True) -> list[Batch]:
    return [batch async for batch in remote.chat(request(stream))]


def text_of(received: list[Batch]) -> str:
    return "".join(e.text for batch in received for e in batch.events if isinstance(e, TextDelta))


def remote_worker(error: Exception | None = None) -> RemoteWorker:
    return RemoteWorker(FastWorker(error), never, stay, LONG)  # type: ignore[arg-type]


def test_all_streams_together_keep_to_the_rate() -> None:
    async def load() -> tuple[list[list[Batch]], float]:
        remote = remote_worker()
        started = time.monotonic()
        received = await asyncio.gather(*(batches(remote) for _ in range(10)))
        return received, time.monotonic() - started

    received, seconds = asyncio.run(load())
    assert [text_of(each) for each in received] == ["".join(TEXT)] * 10
    # The first three of a stream do not wait for their turn: accepted, the first text, the end.
    num_paced = sum(len(each) - 3 for each in received)
    assert num_paced <= seconds * RemoteWorker.BATCHES_PER_SECOND + 10


def test_acceptance_and_the_first_text_leave_at_once() -> None:
    remote = remote_worker()
    remote.BATCHES_PER_SECOND = 0.001

    async def first_two() -> list[Batch]:
        stream = remote.chat(request())
        first = [await anext(stream), await anext(stream)]
        await stream.aclose()
        return first

    accepted, text = asyncio.run(first_two())
    assert accepted.events == [Accepted(3)]
    assert text.events[0] == TextDelta(0, TEXT[0])


@pytest.mark.parametrize("error", [None, WorkerFailed("broken")])
def test_the_end_does_not_wait_for_its_turn(error: WorkerFailed | None) -> None:
    remote = remote_worker(error)
    remote.BATCHES_PER_SECOND = 0.001  # a pause of a quarter of an hour
    received = asyncio.run(batches(remote))
    assert text_of(received) == "".join(TEXT)
    assert len(received) == 3
    assert received[-1].error is error
    if error is None:
        assert received[-1].events[-1] == Finished(0, "stop")


def test_an_abort_ends_the_pause() -> None:
    gone = asyncio.Event()

    async def aborted(request_id: str) -> None:
        await gone.wait()

    async def leave() -> list[Batch]:
        remote = RemoteWorker(FastWorker(), aborted, stay, LONG)  # type: ignore[arg-type]
        remote.BATCHES_PER_SECOND = 0.001
        received = []
        async for batch in remote.chat(request()):
            received.append(batch)
            if len(received) == 2:
                gone.set()
        return received

    assert text_of(asyncio.run(leave())) != "".join(TEXT)


def test_a_stream_without_text_gives_signs_of_life() -> None:
    async def listen() -> list[Batch]:
        remote = RemoteWorker(StuckWorker(), never, stay, LONG)  # type: ignore[arg-type]
        remote.SECONDS_BETWEEN_SIGNS = 0.01
        stream = remote.chat(request())
        received = [await anext(stream) for _ in range(5)]
        await stream.aclose()
        return received

    received = asyncio.run(listen())
    assert text_of(received) == "word"
    assert [(batch.events, batch.error) for batch in received[-2:]] == [([], None)] * 2


def test_figures_come_along_with_the_first_batch_and_the_last() -> None:
    received = asyncio.run(batches(remote_worker()))
    assert len(received) > 3
    told = [batch.stats is not None for batch in received]
    assert told == [True] + [False] * (len(told) - 2) + [True]


def test_without_streaming_there_is_one_batch() -> None:
    (only,) = asyncio.run(batches(remote_worker(), stream=False))
    assert text_of([only]) == "".join(TEXT)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_ends_with_an_error_after_its_text(stream: bool) -> None:
    worker = StuckWorker()
    remote = RemoteWorker(worker, never, stay, seconds=0.05)  # type: ignore[arg-type]
    received = asyncio.run(batches(remote, stream))
    assert text_of(received) == "word"
    assert isinstance(received[-1].error, WorkerFailed)
    assert "longer than 0.05 seconds" in str(received[-1].error)
    assert "REQUEST_TIMEOUT" in str(received[-1].error)
    assert worker.freed


def test_a_watch_that_fails_begins_anew_and_ends_no_answer() -> None:
    """The queue service breaks twice; then the client really leaves."""
    failures = iter([ConnectionError("unreachable"), ConnectionError("unreachable")])
    watching, gone = asyncio.Event(), asyncio.Event()

    async def aborted(request_id: str) -> None:
        for failure in failures:
            raise failure
        watching.set()
        await gone.wait()

    async def leave() -> list[Batch]:
        worker = StuckWorker()
        remote = RemoteWorker(worker, aborted, stay, LONG)  # type: ignore[arg-type]
        remote.SECONDS_BETWEEN_WATCHES = 0.0
        stream = remote.chat(request())
        received = [await anext(stream)]
        await watching.wait()
        assert not worker.freed
        gone.set()
        received += [batch async for batch in stream]
        assert worker.freed
        return received

    received = asyncio.run(leave())
    assert text_of(received) == "word"
    assert [batch.error for batch in received if batch.error] == []


@pytest.mark.parametrize("error", [KeyError("a defect"), TimeoutError("not of the time limit")])
def test_whatever_goes_wrong_ends_the_answer_with_an_error_and_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    received = asyncio.run(batches(remote_worker(error)))
    assert text_of(received) == "".join(TEXT)
    assert isinstance(received[-1].error, WorkerFailed)
    assert "The worker failed on this request" in str(received[-1].error)
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_container_whose_engine_has_died_retires_after_it_has_told_its_error() -> None:
    told: list[object] = []

    async def retire() -> None:
        told.append("retired")

    async def ask() -> None:
        dead = FastWorker(WorkerFailed("the engine has failed"), alive=False)
        async for batch in RemoteWorker(dead, never, retire, LONG).chat(request()):  # type: ignore[arg-type]
            told.append(batch.error)

    asyncio.run(ask())
    assert [str(each) for each in told[-2:]] == ["the engine has failed", "retired"]
