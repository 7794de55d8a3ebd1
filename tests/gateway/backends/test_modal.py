"""The gateway's side of a remote call, without Modal: what comes of a call that cannot be made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Never

import modal
import pytest

from gateway.backends.modal import ModalBackend
from tests.worker.engine.fake_runner import make_engine
from worker.protocol import Accepted, Batch, ChatRequest, ModelInfo, WorkerFailed, WorkerStats


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
    backend = ModalBackend(unreachable, aborts, no_models)

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
    backend = ModalBackend(lambda model: Answering(), aborts, no_models)

    async def ask() -> None:
        assert await backend.running_models() == []
        async for _ in backend.chat(ChatRequest("id", "model", [])):
            pass
        assert await backend.running_models() == ["model"]
        monkeypatch.setattr("gateway.backends.modal.SURELY_RUNNING_SECONDS", 0.0)
        assert await backend.running_models() == []
        assert await backend.not_ready() == []

    asyncio.run(ask())


def test_workers_figures_are_known_until_nothing_was_heard_of_them_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborts: Any = Aborts()
    backend = ModalBackend(lambda model: Answering(), aborts, no_models)

    async def ask() -> None:
        for _ in range(2):
            async for _ in backend.chat(ChatRequest("id", "model", [])):
                pass
        assert await backend.stats() == [STATS]
        monkeypatch.setattr("gateway.backends.modal.STATS_SECONDS", 0.0)
        assert await backend.stats() == []

    asyncio.run(ask())
