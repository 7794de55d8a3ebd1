"""What containers print: one file, each line prefixed with its container, and streams for `modal run`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from modal_proto import api_pb2

from compat_tests.modal_emulator.objects import Signal
from compat_tests.modal_emulator.rpc import Caller


@dataclass(slots=True)
class AppLog:
    batches: list[api_pb2.TaskLogsBatch] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)


@dataclass(slots=True)
class LogService:
    path: Path
    echo: Callable[[str], None] | None = None
    apps: defaultdict[str, AppLog] = field(default_factory=lambda: defaultdict(AppLog))

    def write(self, app_id: str, function_id: str, task_id: str, line: str) -> None:
        prefixed = f"[{task_id}] {line}"
        with self.path.open("a") as file:
            file.write(prefixed + "\n")
        if self.echo:
            self.echo(prefixed)
        item = api_pb2.TaskLogs(
            data=line + "\n", file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT, timestamp=time.time()
        )
        self._add(app_id, api_pb2.TaskLogsBatch(task_id=task_id, function_id=function_id, items=[item]))

    def finish(self, app_id: str) -> None:
        """All has been printed: this is what ends `modal run`."""
        self._add(app_id, api_pb2.TaskLogsBatch(app_done=True))

    def _add(self, app_id: str, batch: api_pb2.TaskLogsBatch) -> None:
        app_log = self.apps[app_id]
        batch.entry_id = str(len(app_log.batches) + 1)
        app_log.batches.append(batch)
        app_log.changed.notify()

    async def AppFetchLogs(
        self, request: api_pb2.AppFetchLogsRequest, _: Caller
    ) -> api_pb2.AppFetchLogsResponse:
        """The last lines that an app, or one of its containers, printed; whatever the times asked for."""
        batches = [
            batch
            for batch in self.apps[request.app_id].batches
            if batch.items and request.task_id in ("", batch.task_id)
        ]
        return api_pb2.AppFetchLogsResponse(batches=batches[-(request.limit or 100) :])

    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest, _: Caller
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        app_log = self.apps[request.app_id]
        seen = int(request.last_entry_id or 0)
        while True:
            for batch in app_log.batches[seen:]:
                yield batch
                seen += 1
                if batch.app_done:
                    return
            if seen == len(app_log.batches):
                await app_log.changed.wait()
