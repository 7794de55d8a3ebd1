"""The gateway's side of a remote call, without Modal: what comes of a call that cannot be made."""

from __future__ import annotations

import asyncio
from typing import Any, Never

import modal
import pytest

from gateway.backends.modal import ModalBackend
from worker.protocol import ChatRequest, ModelInfo, WorkerFailed


class Aborts:
    """As much of modal.Queue as an abort needs."""

    class put:
        @staticmethod
        async def aio(value: object, *, partition: str, partition_ttl: int) -> None: ...


def unreachable(model: str) -> Never:
    raise modal.exception.ConnectionError(f"cannot look up the worker of {model}")


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
