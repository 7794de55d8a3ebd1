"""Batches in this process: one after the other, and only where nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from gateway.openai.batches.batch import ENDED, kept_batches
from gateway.openai.batches.run import BatchRun, Post
from gateway.openai.file_store import FileStore
from worker.protocol import WorkerStats

log = structlog.get_logger("gateway")

Stats = Callable[[], Awaitable[Sequence[WorkerStats]]]


class FreeSlots:
    """One slot is left free for whoever comes, and nothing begins while somebody waits for one."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    async def free(self, num_running: int) -> bool:
        """One request at least where nothing else runs: a model may not be loaded yet, or have one slot."""
        engines = [worker.engine for worker in await self._stats()]
        busy = max(num_running, sum(each.num_running + each.num_waiting for each in engines))
        return busy == 0 or busy < min((each.num_slots for each in engines), default=1) - 1


class LocalBatches:
    """Runs what was begun, also by an earlier process on the same folder."""

    def __init__(self, store: FileStore, post: Post, stats: Stats) -> None:
        self._store, self._post, self._places = store, post, FreeSlots(stats)
        self._waiting: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._cancelled: dict[str, asyncio.Event] = {}

    async def start(self, owner: str, batch_id: str) -> None:
        self._cancelled[batch_id] = asyncio.Event()
        self._waiting.put_nowait((owner, batch_id))

    async def cancel(self, owner: str, batch_id: str) -> None:
        if event := self._cancelled.get(batch_id):
            event.set()

    async def reload(self) -> None: ...

    async def commit(self) -> None: ...

    async def run(self) -> None:
        """Until it is cancelled."""
        for owner, batch_id in await asyncio.to_thread(self._unfinished):
            await self.start(owner, batch_id)
            if (self._store.batches(owner) / f"{batch_id}.cancel").exists():
                await self.cancel(owner, batch_id)
        while True:
            owner, batch_id = await self._waiting.get()
            run = BatchRun(
                self._store,
                owner,
                batch_id,
                post=self._post,
                places=self._places,
                cancelled=self._cancelled[batch_id].wait,
                saved=self.commit,
            )
            try:
                await run.run()
            except Exception as error:  # of a full disk, for one; it goes on when the server starts again
                log.error("batch_stopped", batch=batch_id, exc_info=error)
            del self._cancelled[batch_id]

    def _unfinished(self) -> list[tuple[str, str]]:
        """The oldest first."""
        found = []
        for owner in self._store.owners():
            batches = kept_batches(self._store, owner)
            found += [(b["created_at"], owner, b["id"]) for b in batches if b["status"] not in ENDED]
        return [(owner, batch_id) for _, owner, batch_id in sorted(found)]
