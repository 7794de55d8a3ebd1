"""Responses that are kept, to be continued: for a time, up to a size, and each for its owner alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.settings import StartError

MEMORY = ":memory:"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    owner TEXT NOT NULL,
    id TEXT PRIMARY KEY,
    previous_id TEXT,
    input BLOB NOT NULL,
    response BLOB NOT NULL,
    used REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used);
"""
_SIZE = "length(input) + length(response)"
_CHAIN = """
WITH RECURSIVE chain (id, previous_id, depth) AS (
    SELECT id, previous_id, 0 FROM responses WHERE id = :id AND owner = :owner AND used >= :since
    UNION ALL
    SELECT earlier.id, earlier.previous_id, depth + 1 FROM responses AS earlier
    JOIN chain ON earlier.id = chain.previous_id WHERE owner = :owner AND used >= :since
)
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response and the items that its own request brought, both as JSON, and which one it continues."""

    id: str
    previous_id: str | None
    input: bytes
    response: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.input) + len(self.response)

    def items(self) -> list[dict[str, Any]]:
        """What was said: the input, and the output."""
        return [*orjson.loads(self.input), *orjson.loads(self.response)["output"]]


class ResponseStore:
    """SQLite, in a file or in memory; its calls run in threads, one at a time.

    A response that nobody used for `seconds` is gone, and where all take more than `max_bytes`, those that
    were not used for the longest time. To continue one is to use all that it continues.
    """

    def __init__(
        self, place: str, *, max_bytes: int, seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises StartError where `place` is no database, and none can be made there."""
        self._max_bytes, self._seconds, self._clock = max_bytes, seconds, clock
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(place, check_same_thread=False)
            self._database.execute("PRAGMA secure_delete = ON")  # what is deleted is not left in the file
            self._database.executescript(_SCHEMA)
            sizes = self._database.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM responses")
            self._num_bytes: int = sizes.fetchone()[0]
        except sqlite3.Error as error:
            raise StartError(
                f"RESPONSES_DB={place} cannot be opened: {error}. Give the path of a file in a folder that "
                f"can be written to, or {MEMORY}."
            ) from error

    @property
    def keeps(self) -> bool:
        """False where nothing is kept at all."""
        return self._max_bytes > 0

    def close(self) -> None:
        with self._lock:
            self._database.close()

    async def keep(self, owner: str, kept: Kept) -> None:
        """Raises sqlite3.Error, of a full disk for one."""
        await asyncio.to_thread(self._keep, owner, kept)

    async def find(self, owner: str, response_id: str) -> Kept | None:
        return await asyncio.to_thread(self._find, owner, response_id)

    async def conversation(self, owner: str, response_id: str) -> list[Kept]:
        """The response and all that it continues, the earliest first, as far as they are kept."""
        return await asyncio.to_thread(self._conversation, owner, response_id)

    async def delete(self, owner: str, response_id: str) -> bool:
        """False where there is no such response of that owner."""
        return await asyncio.to_thread(self._delete, owner, response_id)

    def _keep(self, owner: str, kept: Kept) -> None:
        if kept.num_bytes > self._max_bytes:  # it would drive out all others, and then itself
            return
        row = (owner, kept.id, kept.previous_id, kept.input, kept.response, self._clock())
        with self._lock, self._database:
            self._database.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)", row)
            self._num_bytes += kept.num_bytes
            self._remove("used < ?", self._since())
            while self._num_bytes > self._max_bytes:
                self._remove("id = (SELECT id FROM responses ORDER BY used LIMIT 1)")

    def _find(self, owner: str, response_id: str) -> Kept | None:
        wanted = (response_id, owner, self._since())
        query = (
            "SELECT id, previous_id, input, response FROM responses WHERE id = ? AND owner = ? AND used >= ?"
        )
        with self._lock:
            row = self._database.execute(query, wanted).fetchone()
        return None if row is None else Kept(*row)

    def _conversation(self, owner: str, response_id: str) -> list[Kept]:
        wanted = {"id": response_id, "owner": owner, "since": self._since(), "now": self._clock()}
        columns = "responses.id, responses.previous_id, input, response"
        query = f"{_CHAIN} SELECT {columns} FROM responses JOIN chain USING (id) ORDER BY depth DESC"
        use = f"{_CHAIN} UPDATE responses SET used = :now WHERE id IN (SELECT id FROM chain)"
        with self._lock, self._database:
            rows = self._database.execute(query, wanted).fetchall()
            self._database.execute(use, wanted)
        return [Kept(*row) for row in rows]

    def _delete(self, owner: str, response_id: str) -> bool:
        with self._lock, self._database:
            return self._remove("id = ? AND owner = ? AND used >= ?", response_id, owner, self._since())

    def _remove(self, where: str, *values: object) -> bool:
        """Whether there were any."""
        rows = self._database.execute(f"DELETE FROM responses WHERE {where} RETURNING {_SIZE}", values)
        sizes = [size for (size,) in rows]
        self._num_bytes -= sum(sizes)
        return bool(sizes)

    def _since(self) -> float:
        return self._clock() - self._seconds
