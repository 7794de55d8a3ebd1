"""One server for all tests of the gateway; behind it, each test has a scripted backend of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from tests.serving import ScriptedBackend, serving
from worker.protocol import Event, ModelInfo, Request, WorkerStats


@dataclass
class StandIn:
    """The backend of whichever test runs."""

    current: ScriptedBackend = field(default_factory=ScriptedBackend)

    async def models(self) -> Sequence[ModelInfo]:
        return await self.current.models()

    async def check(self) -> None:
        await self.current.check()

    async def not_ready(self) -> Sequence[str]:
        return await self.current.not_ready()

    async def stats(self) -> Sequence[WorkerStats]:
        return await self.current.stats()

    async def running_models(self) -> Sequence[str]:
        return await self.current.running_models()

    def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        return self.current.chat(request)


@pytest.fixture(scope="session")
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(scope="session")
def url(stand_in: StandIn) -> Iterator[str]:
    with serving(stand_in) as url:
        yield url


@pytest.fixture
def backend(stand_in: StandIn) -> ScriptedBackend:
    stand_in.current = ScriptedBackend()
    return stand_in.current


@pytest.fixture
def client(url: str, backend: ScriptedBackend) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client
