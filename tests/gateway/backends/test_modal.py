"""The gateway's side of a remote call, without Modal: what comes of a call that cannot be made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Never

import modal
import pytest

from gateway.backends.modal import ModalBackend
from tests.worker.engine.fake_runner import make_engine
from worker.protocol import (
    Accepted,
    Batch,
    ChatRequest,
    ModelInfo,
    Overloaded,
    TextDelta,
    WorkerFailed,
    WorkerStats,
)


class Aborts:
    """As much of modal.Queue as an abort needs."""

    class put:
        @staticmethod
        async def aio(value: object, *, partition: str, partition_ttl: int) -> None: ...


def unreachable(model: str) -> Never:
    raise modal.exception.ConnectionError(f"cannot look up the worker of {model}")


STATS = WorkerStats("w", "model", make_engine().stats())


async def no_models() -> list[ModelInfo]:
    return []


def test_a_call_that_cannot_be_made_is_an_error_and_not_a_wait_for_ever() -> None:
    aborts: Any = Aborts()
    backend = ModalBackend(unreachable, aborts, no_models, lambda model: 2)

    async def ask() -> None:
        async with asyncio.timeout(10):
            async for _ in backend.chat(ChatRequest("id", "model", [])):
                pass

    with pytest.raises(WorkerFailed, match="Send it again"):
        asyncio.run(ask())


class Answering:
    """As much of a worker's class as a call needs."""

    class chat:
        class remote_gen:
            @staticmethod
            async def aio(request: ChatRequest) -> AsyncGenerator[Batch]:
                yield Batch("attempt", [Accepted(1)], stats=STATS)


def test_only_workers_that_were_heard_of_just_now_are_asked_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    aborts: Any = Aborts()
    backend = ModalBackend(lambda model: Answering(), aborts, no_models, lambda model: 2)

    async def ask() -> None:
        assert await backend.running_models() == []
        async for _ in backend.chat(ChatRequest("id", "model", [])):
            pass
        assert await backend.running_models() == ["model"]
        monkeypatch.setattr("gateway.backends.modal.SURELY_RUNNING_SECONDS", 0.0)
        assert await backend.running_models() == []
        assert await backend.not_ready() == []

    asyncio.run(ask())


class Silent:
    """A worker that accepts, says signs of life and a word, and is not heard of again."""

    class chat:
        class remote_gen:
            @staticmethod
            async def aio(request: ChatRequest) -> AsyncGenerator[Batch]:
                yield Batch("attempt", [Accepted(1)])
                for _ in range(3):
                    await asyncio.sleep(0.05)
                    yield Batch("attempt", [])
                yield Batch("attempt", [TextDelta(0, "word")])
                await asyncio.Event().wait()


def silent_backend() -> ModalBackend:
    aborts: Any = Aborts()
    return ModalBackend(lambda model: Silent(), aborts, no_models, lambda model: 2)


def test_a_worker_that_is_silent_is_lost_long_before_its_replacement_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.backends.modal.SECONDS_UNTIL_LOST", 0.1)

    async def ask() -> None:
        stream = silent_backend().chat(ChatRequest("id", "model", []))
        assert [await anext(stream), await anext(stream)] == [[Accepted(1)], [TextDelta(0, "word")]]
        with pytest.raises(WorkerFailed, match="lost in the middle"):
            await anext(stream)

    asyncio.run(ask())


def test_beyond_what_may_be_under_way_requests_are_refused_until_one_ends() -> None:
    async def ask() -> None:
        backend = silent_backend()
        running = [backend.chat(ChatRequest(f"id-{i}", "model", [])) for i in range(2)]
        for stream in running:
            await anext(stream)
        with pytest.raises(Overloaded, match="2 requests for model are under way") as refusal:
            await anext(backend.chat(ChatRequest("id", "model", [])))
        assert refusal.value.retry_after > 0
        await anext(backend.chat(ChatRequest("id", "another", [])))
        await running[0].aclose()
        assert await anext(backend.chat(ChatRequest("id", "model", []))) == [Accepted(1)]

    asyncio.run(ask())


def test_modals_own_limits_are_told_as_what_they_are() -> None:
    def exhausted(model: str) -> Never:
        raise modal.exception.ResourceExhaustedError("Function call rate limit exceeded")

    async def ask() -> None:
        aborts: Any = Aborts()
        backend = ModalBackend(exhausted, aborts, no_models, lambda model: 2)
        with pytest.raises(Overloaded, match=r"Modal takes no more calls .* rate limit exceeded"):
            await anext(backend.chat(ChatRequest("id", "model", [])))

    asyncio.run(ask())


def test_workers_figures_are_known_until_nothing_was_heard_of_them_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborts: Any = Aborts()
    backend = ModalBackend(lambda model: Answering(), aborts, no_models, lambda model: 2)

    async def ask() -> None:
        for _ in range(2):
            async for _ in backend.chat(ChatRequest("id", "model", [])):
                pass
        assert await backend.stats() == [STATS]
        monkeypatch.setattr("gateway.backends.modal.STATS_SECONDS", 0.0)
        assert await backend.stats() == []

    asyncio.run(ask())
