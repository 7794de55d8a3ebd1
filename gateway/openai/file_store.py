"""Files that clients keep here, and the batches made of them: plain files in a folder, one below it an owner.

Plain, so that the folder may be a Volume that several containers see: every file has one writer.

    OWNER/files/ID.json      what is told of the file
    OWNER/files/ID.data      its content
    OWNER/batches/ID.json    the batch
    OWNER/batches/ID.caller  the name of the key that asked for it
    OWNER/batches/ID.cancel  there if it was cancelled
    OWNER/batches/ID.output  its answers so far, and in ID.errors its failures
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.errors import APIError

MOST_FILES = 1000  # of one owner
Purpose = Literal["batch", "batch_output"]
_ID = re.compile(r"(file-|batch_)[0-9a-f]{24}")


class FileObject(TypedDict):
    """A file as it goes out; times are Unix times in seconds."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: NotRequired[int]
    filename: str
    purpose: Purpose
    status: Literal["processed"]


class FileStore:
    """The files of all owners, each for its owner alone; its calls touch the disk, so they belong in threads.

    A file lives until it expires: after `seconds`, unless its owner said sooner.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self.seconds, self.clock = seconds, clock

    def room(self, owner: str, num_bytes: int) -> None:
        """Raise a 413 or 429 where another file of that size is one too many for its owner."""
        files = list(self.of(owner))
        if len(files) >= MOST_FILES:
            message = f"You keep {len(files)} files here, the most that you may. Delete some first."
            raise APIError(429, message, type="rate_limit_error", code="too_many_files")
        if sum(each["bytes"] for each in files) + num_bytes > self._max_bytes:
            message = (
                f"Your files would take more than the {self._max_bytes >> 20} MiB that are kept for a key. "
                "Delete some first, or raise FILES_MB."
            )
            raise APIError(413, message, param="file", code="file_storage_full")

    def add(
        self, owner: str, source: Path, filename: str, purpose: Purpose, seconds: float | None = None
    ) -> FileObject:
        """Take `source`, which is moved here."""
        now = self.clock()
        file: FileObject = {
            "id": f"file-{secrets.token_hex(12)}",
            "object": "file",
            "bytes": source.stat().st_size,
            "created_at": int(now),
            "expires_at": int(now + min(seconds or self.seconds, self.seconds)),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        folder = self._folder(owner, "files")
        shutil.move(source, folder / f"{file['id']}.data")
        write_json(folder / f"{file['id']}.json", file)
        return file

    def of(self, owner: str) -> Iterator[FileObject]:
        """The newest first. Those that have expired are removed."""
        for file in newest(self._folder(owner, "files")):
            if file.get("expires_at", self.clock()) < self.clock():
                self.delete(owner, file["id"])
            else:
                yield file

    def find(self, owner: str, file_id: str, param: str | None = None) -> FileObject:
        """Raises a 404, or a 400 about the field `param`, where there is none of that owner."""
        found: FileObject | None = None
        if is_id(file_id):
            found = read_json(self._folder(owner, "files") / f"{file_id}.json")
        if found is None or found.get("expires_at", self.clock()) < self.clock():
            message = f"No such File object: '{file_id}'. It may have expired, or be another key's."
            raise APIError(400 if param else 404, message, param=param or "id", code="file_not_found")
        return found

    def content(self, owner: str, file_id: str) -> Path:
        """Of a file that was found."""
        return self._folder(owner, "files") / f"{file_id}.data"

    def delete(self, owner: str, file_id: str) -> None:
        """Of a file that was found."""
        for ending in ("json", "data"):
            (self._folder(owner, "files") / f"{file_id}.{ending}").unlink(missing_ok=True)

    def batches(self, owner: str) -> Path:
        return self._folder(owner, "batches")

    def owners(self) -> list[str]:
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return [each.name for each in folders if each.name != "uploads"]

    def upload(self) -> Path:
        """A name for what is still coming."""
        return self._made("uploads") / secrets.token_hex(12)

    def _folder(self, owner: str, kind: str) -> Path:
        return self._made(owner, kind)

    def _made(self, *names: str) -> Path:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # nobody else's to read
        folder = self.folder.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def is_id(text: str) -> bool:
    """Ids are names of files, so nothing else may pass."""
    return _ID.fullmatch(text) is not None


def newest(folder: Path) -> list[Any]:
    """All objects in a folder, the newest first."""
    found = [read_json(path) for path in folder.glob("*.json")]
    return sorted(filter(None, found), key=lambda each: (each["created_at"], each["id"]), reverse=True)


def read_json(path: Path) -> Any:
    """None where there is no such file."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def write_json(path: Path, value: object) -> None:
    """At once or not at all, whatever ends this process."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(orjson.dumps(value))
    os.replace(draft, path)


class Page(TypedDict):
    """Some of a list's objects, in OpenAI's words."""

    object: Literal["list"]
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(objects: list[Any], limit: int, after: str | None) -> Page:
    """`limit` of them, behind the one whose id is `after`."""
    ids = [each["id"] for each in objects]
    start = ids.index(after) + 1 if after in ids else 0
    data = objects[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < len(objects),
    }
