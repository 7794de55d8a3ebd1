"""One batch, from wherever it was left to its end: each request answered once, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson
import structlog

from gateway.caller import ANYBODY, Caller
from gateway.openai.batches.batch import (
    ENDED,
    Answered,
    Batch,
    Line,
    Status,
    check,
    find_batch,
    read_caller,
    read_lines,
)
from gateway.openai.file_store import FileStore, write_json

log = structlog.get_logger("gateway")

# Posts a body to a path of the API, in a caller's name; status, id of the request and body of the answer.
Post = Callable[[str, bytes, Caller], Awaitable[tuple[int, str, bytes]]]

OVERLOADED = 429
UNAVAILABLE = 503
MOST_ATTEMPTS = 3  # at a request that the worker failed on


class Places(Protocol):
    """Where the requests of batches find room beside those of people who wait."""

    async def free(self, num_running: int) -> bool:
        """Whether one more request may run beside this batch's own `num_running`."""
        ...


class PlacesUpTo:
    """So many, but for one that is left for whoever comes."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most - 1)

    async def free(self, num_running: int) -> bool:
        return num_running < self._most


class BatchRun:
    """`cancelled()` returns when its client wants no more of it; `saved()` makes what was written last."""

    SECONDS_BETWEEN_LOOKS = 0.1  # for a place
    SECONDS_BETWEEN_SAVES = 2.0
    SECONDS_BETWEEN_ATTEMPTS = 1.0

    def __init__(
        self,
        store: FileStore,
        owner: str,
        batch_id: str,
        *,
        post: Post,
        places: Places,
        cancelled: Callable[[], Awaitable[object]],
        saved: Callable[[], Awaitable[object]],
    ) -> None:
        self._store, self._owner, self._id = store, owner, batch_id
        self._post, self._places, self._cancelled, self._saved = post, places, cancelled, saved
        self._folder = store.batches(owner)
        self._journals: dict[str, BinaryIO] = {}
        self._caller = ANYBODY

    async def run(self) -> None:
        """Cancelled, it leaves everything so that another run goes on from there."""
        batch = find_batch(self._folder, self._id)
        if batch is None or batch["status"] in ENDED:
            return
        if not await self._begin(batch):
            return
        self._caller = await asyncio.to_thread(read_caller, self._folder, self._id)
        with self._journal("output") as self._journals["output"], self._journal("errors") as failed:
            self._journals["errors"] = failed
            status = await self._answer_all(batch)
        await self._finish(batch, status)

    async def _begin(self, batch: Batch) -> bool:
        """Whether it can be run."""
        source = self._store.content(self._owner, batch["input_file_id"])
        try:
            total, faults = await asyncio.to_thread(check, source, batch["endpoint"])
        except FileNotFoundError:
            message = f"The file '{batch['input_file_id']}' was deleted, or has expired."
            total, faults = 0, [{"code": "file_not_found", "line": None, "message": message, "param": None}]
        batch["request_counts"]["total"] = total
        now = int(self._store.clock())
        if faults:
            batch["errors"] = {"object": "list", "data": faults}
            batch["status"], batch["failed_at"] = "failed", now
        else:
            batch["status"], batch["in_progress_at"] = "in_progress", batch["in_progress_at"] or now
        await self._save(batch)
        return not faults

    @contextlib.contextmanager
    def _journal(self, kind: str) -> Iterator[BinaryIO]:
        with (self._folder / f"{self._id}.{kind}").open("ab") as file:
            yield file

    async def _answer_all(self, batch: Batch) -> Status:
        """`completed`, or why not all are answered."""
        if batch["cancelling_at"]:  # before it began, or before an earlier run of it was lost
            return "cancelled"
        answering = asyncio.ensure_future(self._answer_rest(batch))
        cancelled = asyncio.ensure_future(self._cancelled())
        saving = asyncio.ensure_future(self._save_now_and_then(batch))
        left = max(0.0, batch["expires_at"] - self._store.clock())
        try:
            await asyncio.wait({answering, cancelled}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
                return "completed"
            return "cancelled" if cancelled.done() else "expired"
        finally:
            for task in (answering, cancelled, saving):
                task.cancel()
            await asyncio.gather(answering, cancelled, saving, return_exceptions=True)

    async def _answer_rest(self, batch: Batch) -> None:
        done = await asyncio.to_thread(self._recover, batch)
        source = self._store.content(self._owner, batch["input_file_id"])
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            for line in read_lines(source, batch["endpoint"]):
                if not isinstance(line, Line) or line.custom_id in done:
                    continue
                while not await self._places.free(len(running)):
                    await self._pause(running)
                task = group.create_task(self._answer(batch, line))
                running.add(task)
                task.add_done_callback(running.discard)

    async def _pause(self, running: set[asyncio.Task[None]]) -> None:
        if running:
            seconds = self.SECONDS_BETWEEN_LOOKS
            await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(self.SECONDS_BETWEEN_LOOKS)

    def _recover(self, batch: Batch) -> set[str]:
        """The requests that an earlier run has answered. A line that it could not finish is cut off."""
        done: set[str] = set()
        for kind, counted in (("output", "completed"), ("errors", "failed")):
            path, whole, num = self._folder / f"{self._id}.{kind}", 0, 0
            with path.open("rb") as file:
                for text in file:
                    if not text.endswith(b"\n"):
                        break
                    done.add(orjson.loads(text)["custom_id"])
                    whole, num = whole + len(text), num + 1
            with path.open("r+b") as file:
                file.truncate(whole)
            batch["request_counts"][counted] = num  # type: ignore[literal-required]
        return done

    async def _answer(self, batch: Batch, line: Line) -> None:
        attempts = 0
        while True:
            status, request_id, body = await self._post(batch["endpoint"], line.body, self._caller)
            attempts += status == UNAVAILABLE
            if status != OVERLOADED and (status != UNAVAILABLE or attempts >= MOST_ATTEMPTS):
                break
            await asyncio.sleep(self.SECONDS_BETWEEN_ATTEMPTS)
        response = {"status_code": status, "request_id": request_id, "body": orjson.Fragment(body)}
        succeeded = status == 200
        self._write("output" if succeeded else "errors", line.custom_id, response=response)
        batch["request_counts"]["completed" if succeeded else "failed"] += 1

    def _write(
        self,
        kind: str,
        custom_id: str,
        *,
        response: dict[str, object] | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        answered: Answered = {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        self._journals[kind].write(orjson.dumps(answered) + b"\n")
        self._journals[kind].flush()

    async def _save_now_and_then(self, batch: Batch) -> None:
        while True:
            await asyncio.sleep(self.SECONDS_BETWEEN_SAVES)
            await self._save(batch)

    async def _save(self, batch: Batch) -> None:
        write_json(self._folder / f"{self._id}.json", batch)
        await self._saved()

    async def _finish(self, batch: Batch, status: Status) -> None:
        """What was answered is a file of its owner's, also where not all was."""
        now = int(self._store.clock())
        asked = find_batch(self._folder, self._id)
        batch["cancelling_at"] = asked["cancelling_at"] if asked else None
        if status == "expired":
            await asyncio.to_thread(self._tell_expired, batch)
        batch["status"], batch["finalizing_at"] = "finalizing", now
        batch["output_file_id"] = await asyncio.to_thread(self._keep, "output")
        batch["error_file_id"] = await asyncio.to_thread(self._keep, "errors")
        batch["status"] = status
        batch[f"{status}_at"] = int(self._store.clock())  # type: ignore[literal-required]
        await self._save(batch)
        log.info("batch_ended", batch=self._id, status=status, **batch["request_counts"])

    def _tell_expired(self, batch: Batch) -> None:
        done = self._recover(batch)
        message = "This request could not be answered before the completion window ended."
        with self._journal("errors") as self._journals["errors"]:
            for line in read_lines(
                self._store.content(self._owner, batch["input_file_id"]), batch["endpoint"]
            ):
                if isinstance(line, Line) and line.custom_id not in done:
                    self._write("errors", line.custom_id, error={"code": "batch_expired", "message": message})
                    batch["request_counts"]["failed"] += 1

    def _keep(self, kind: str) -> str | None:
        path: Path = self._folder / f"{self._id}.{kind}"
        if not path.is_file() or path.stat().st_size == 0:
            path.unlink(missing_ok=True)
            return None
        name = f"{self._id}_{'output' if kind == 'output' else 'error'}.jsonl"
        return self._store.add(self._owner, path, name, "batch_output")["id"]
