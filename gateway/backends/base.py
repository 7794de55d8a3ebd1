"""How the gateway reaches a worker: in this process, or on Modal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from worker.protocol import Event, ModelInfo, Request, WorkerStats


class Backend(Protocol):
    """What the gateway needs of a worker, wherever it runs.

    `chat` yields what has accumulated since the last batch: first `Accepted`, last `Usage`. It raises a
    WorkerError where the request cannot be answered, and closing it aborts the generation at once.
    """

    async def models(self) -> Sequence[ModelInfo]: ...

    def chat(self, request: Request) -> AsyncGenerator[list[Event]]: ...

    async def check(self) -> None:
        """Raise WorkerFailed if requests cannot be answered any more, until somebody restarts the worker."""

    async def not_ready(self) -> Sequence[str]:
        """Why a request would not be answered now, a sentence each. Asking starts no worker."""
        ...

    async def stats(self) -> Sequence[WorkerStats]:
        """What the workers' engines say of themselves, as far as that is known without asking."""
        ...

    async def running_models(self) -> Sequence[str]:
        """The models whose workers run, so that asking one starts none."""
        ...
