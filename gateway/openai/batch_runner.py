"""Where files lie and batches run: here, or where more than this process sees them."""

from __future__ import annotations

from typing import Protocol

from fastapi import Depends, Request


class BatchRunner(Protocol):
    """`run` is awaited, and cancelled, with the server. Files are written before `commit`."""

    async def run(self) -> None: ...

    async def start(self, owner: str, batch_id: str) -> None: ...

    async def cancel(self, owner: str, batch_id: str) -> None: ...

    async def reload(self) -> None:
        """See what others have written. Never raises: what was seen before is the next best."""

    async def commit(self) -> None:
        """Let others see what was written."""


def runner_of(request: Request) -> BatchRunner:
    runner: BatchRunner = request.app.state.batches
    return runner


async def _fresh(request: Request) -> None:
    await runner_of(request).reload()


Fresh = Depends(_fresh)
