"""Prefixes that many begin with, in files: which are worth one, which are known, which are being read."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from worker.engine.prefix_folder import PrefixFolder, Read, Stored
from worker.engine.prefix_index import PrefixIndex
from worker.engine.runner import State


@dataclass(slots=True, eq=False)
class Reading:
    """A file on its way to memory; sequences wait for it as for another's prefill."""

    is_pending: bool = True


class FileTier:
    """Belongs to the engine's thread: what the folder's thread has done takes effect in `collect`."""

    MIN_TOKENS = 256  # what is shorter is computed again in less than a second
    # Lengths are rounded down to a multiple of this, so that first words that happen to be the same neither
    # hide that a prefix is shared nor get into its file.
    BLOCK = 32
    MIN_BRANCHES = 2  # requests that shared a prefix with earlier ones and then went on differently
    MAX_COUNTED = 4096
    MAX_WRITING = 4

    def __init__(self, index: PrefixIndex, folder: PrefixFolder, wake: Callable[[], None]) -> None:
        self._index, self._folder, self._wake = index, folder, wake
        self._known: dict[str, Stored] = {}  # by the file's name
        self._branches: OrderedDict[int, int] = OrderedDict()  # by a hash of the tokens before them
        self._readings: dict[Stored, Reading] = {}
        self._num_writing = 0
        self._jobs: list[tuple[Future[Any], Callable[[Any], None]]] = []
        # Waited for: the first request after a start is the one that gains most.
        for stored, tokens in folder.found():
            self._add(stored, tokens)

    def collect(self) -> None:
        """Take over what the folder's thread has finished."""
        for job in [job for job in self._jobs if job[0].done()]:
            self._jobs.remove(job)
            future, function = job
            function(future.result())

    def is_worth_a_file(self, tokens: list[int], namespace: str) -> bool:
        """Count one more request that goes on differently after these tokens: is that often enough?"""
        key = hash((namespace, array("i", tokens).tobytes()))
        count = self._branches.pop(key, 0) + 1
        if count >= self.MIN_BRANCHES and self._num_writing < self.MAX_WRITING:
            return True  # and counted anew, should it come to nothing
        self._branches[key] = count
        if len(self._branches) > self.MAX_COUNTED:
            self._branches.popitem(last=False)
        return False

    def store(self, tokens: list[int], state: State, namespace: str) -> None:
        self._num_writing += 1

        def stored(file: Stored | None) -> None:
            self._num_writing -= 1
            if file is not None:
                self._add(file, tokens)

        self._after(self._folder.write(tokens, state, namespace), stored)

    def read(self, stored: Stored, arrived: Callable[[Stored, Read], None]) -> Reading:
        """Call `arrived` with the file and what was read, if it is good."""
        if stored in self._readings:
            return self._readings[stored]
        reading = self._readings[stored] = Reading()

        def finished(read: Read | None) -> None:
            reading.is_pending = False
            del self._readings[stored]
            if read is None:
                self._remove(stored)
            elif stored in self._index:
                arrived(stored, read)

        self._after(self._folder.read(stored), finished)
        return reading

    def read_now(self, stored: Stored) -> Read | None:
        """Wait for a file, where nobody else waits for the engine."""
        read = self._folder.read(stored).result()
        if read is None:
            self._remove(stored)
        return read

    def close(self) -> None:
        self._folder.close()

    def check_integrity(self) -> None:
        for stored in self._known.values():
            assert len(self._index.tokens(stored)) == stored.length

    def _after(self, future: Future[Any], function: Callable[[Any], None]) -> None:
        self._jobs.append((future, function))
        future.add_done_callback(lambda _: self._wake())

    def _add(self, stored: Stored, tokens: list[int]) -> None:
        if old := self._known.get(stored.path.name):
            self._index.remove(old)
        self._known[stored.path.name] = stored
        self._index.insert(stored, tokens)

    def _remove(self, stored: Stored) -> None:
        if self._known.get(stored.path.name) is stored:
            del self._known[stored.path.name]
        self._index.remove(stored)
