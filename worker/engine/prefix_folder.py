"""States of prefixes as files, which outlive the process and serve every process with the same model.

A file begins with `_FIXED`, little-endian: magic, checksum of what follows up to the state, checksum of the
state, and the sizes of the identity and the namespace (UTF-8), the tokens (int32), what the state can be cut
down to, and the state itself; then come these but the fourth. It holds token ids, which are what users wrote,
so only the owner may read it.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import time
import zlib
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.engine.prefix_index import PUBLIC, Tier
from worker.engine.runner import State

log = logging.getLogger(__name__)

MAGIC = b"PREFIX\x00\x01"
SUFFIX = ".prefix"
_FIXED = struct.Struct("<8sIIIIIIQ")
_UNFINISHED = ".part"
_ABANDONED_SECONDS = 3600.0  # a writer that has taken so long is gone


@dataclass(slots=True, eq=False)
class Stored:
    """A file with the state after `length` tokens, which can be cut down to `shortest`."""

    path: Path
    length: int
    shortest: int
    num_bytes: int
    namespace: str = PUBLIC
    tier: Tier = Tier.FILE


@dataclass(frozen=True, slots=True)
class Header:
    stored: Stored
    tokens: list[int]
    checksum: int
    offset: int  # of the state


@dataclass(frozen=True, slots=True)
class Read:
    state: State
    seconds: float


class UnusableFile(Exception):
    """What is wrong with a file, as the end of a sentence."""


class PrefixFolder:
    """Reads and writes on a thread of its own; states of another `identity` are left alone.

    All files together, of whatever model, take `max_bytes`; what nobody has read for longest goes first.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        max_bytes: int,
        executor: Executor | None = None,
    ) -> None:
        self.folder, self.identity, self.max_bytes = folder, identity, max_bytes
        self._prefix = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="prefix-files")
        self._scanning: Future[list[tuple[Stored, list[int]]]] | None = self._executor.submit(self._scan)

    def found(self) -> list[tuple[Stored, list[int]]]:
        """What there is for this model, with its tokens; waits for it, which has begun with the folder."""
        scanning, self._scanning = self._scanning or self._executor.submit(self._scan), None
        return scanning.result()

    def write(self, tokens: list[int], state: State, namespace: str = PUBLIC) -> Future[Stored | None]:
        """None where that did not work, or there is no room; the log says why."""
        return self._executor.submit(self._write, tokens, state, namespace)

    def read(self, stored: Stored) -> Future[Read | None]:
        """None where the file cannot be used; the log says why."""
        return self._executor.submit(self._read, stored)

    def close(self) -> None:
        """Finish what is being written."""
        self._executor.shutdown()

    def _scan(self) -> list[tuple[Stored, list[int]]]:
        found = []
        for path in self._files():
            if path.name.endswith(_UNFINISHED):
                if time.time() - _modified(path) > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
            elif path.name.startswith(self._prefix):
                try:
                    header = self._header(path)
                    found.append((header.stored, header.tokens))
                except (OSError, UnusableFile) as error:
                    log.warning("%s is ignored: %s", path, error)
        return found

    def _read(self, stored: Stored) -> Read | None:
        started = time.perf_counter()
        try:
            header = self._header(stored.path)
            if (header.stored.length, header.stored.num_bytes) != (stored.length, stored.num_bytes):
                raise UnusableFile("another has taken its place")
            # Mapped, so that all of it goes back to the system when it is dropped.
            data = memoryview(mmap.mmap(-1, stored.num_bytes))
            with stored.path.open("rb", buffering=0) as file:
                file.seek(header.offset)
                num_read = 0
                while num := file.readinto(data[num_read:]):
                    num_read += num
            if num_read != stored.num_bytes or zlib.crc32(data) != header.checksum:
                raise UnusableFile("it is truncated or damaged")
        except FileNotFoundError:  # another process needed its room
            return None
        except (OSError, UnusableFile) as error:
            log.warning("%s is ignored: %s", stored.path, error)
            return None
        _touch(stored.path)
        return Read(State(data, stored.length, stored.shortest), time.perf_counter() - started)

    def _header(self, path: Path) -> Header:
        """Checked, but for the state, which may be long; raises OSError or UnusableFile."""
        with path.open("rb") as file:
            fixed = file.read(_FIXED.size)
            if len(fixed) < _FIXED.size or fixed[:8] != MAGIC:
                raise UnusableFile("it is not a file of this format")
            _, checksum, state_checksum, num_identity, num_namespace, num_tokens, shortest, num_bytes = (
                _FIXED.unpack(fixed)
            )
            offset = _FIXED.size + num_identity + num_namespace + 4 * num_tokens
            if os.fstat(file.fileno()).st_size != offset + num_bytes:
                raise UnusableFile("it is truncated")
            rest = file.read(offset - _FIXED.size)
        if zlib.crc32(fixed[12:] + rest) != checksum:
            raise UnusableFile("it is damaged")
        identity = rest[:num_identity].decode("utf-8", "replace")
        if identity != self.identity:
            raise UnusableFile("it is of another model, or of another version of llama.cpp")
        namespace = rest[num_identity : num_identity + num_namespace].decode("utf-8", "replace")
        tokens = np.frombuffer(rest, "<i4", offset=num_identity + num_namespace).tolist()
        stored = Stored(path, num_tokens, shortest, num_bytes, namespace)
        return Header(stored, tokens, state_checksum, offset)

    def _write(self, tokens: list[int], state: State, namespace: str) -> Stored | None:
        identity, whose = self.identity.encode(), namespace.encode()
        ids = np.asarray(tokens, "<i4").tobytes()
        name = hashlib.sha256(whose + b"\0" + ids).hexdigest()[:32]
        path = self.folder / f"{self._prefix}-{name}{SUFFIX}"
        sizes = (len(identity), len(whose), len(tokens), state.shortest, state.data.nbytes)
        fixed = _FIXED.pack(MAGIC, 0, zlib.crc32(state.data), *sizes)
        rest = identity + whose + ids
        checksum = struct.pack("<I", zlib.crc32(fixed[12:] + rest))
        size = len(fixed) + len(rest) + state.data.nbytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._make_room(size, path):
                return None
            # Nobody ever sees a part of it: it gets its name when it is whole.
            unfinished = path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")
            try:
                with os.fdopen(
                    os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
                ) as file:
                    file.writelines((fixed[:8], checksum, fixed[12:], rest, state.data))
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a prefix of %d tokens was not kept in %s: %s", len(tokens), self.folder, error)
            return None
        return Stored(path, len(tokens), state.shortest, state.data.nbytes, namespace)

    def _make_room(self, size: int, path: Path) -> bool:
        """Remove what was read longest ago; False where not even that is enough."""
        if size > self.max_bytes:
            return False
        others = [(_modified(p), p, _size(p)) for p in self._files() if p != path]
        total = size + sum(num_bytes for _, _, num_bytes in others)
        for _, oldest, num_bytes in sorted(others):
            if total <= self.max_bytes:
                break
            oldest.unlink(missing_ok=True)
            total -= num_bytes
        return True

    def _files(self) -> list[Path]:
        try:
            return [p for p in self.folder.iterdir() if p.name.endswith((SUFFIX, _UNFINISHED))]
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("%s cannot be read: %s", self.folder, error)
            return []


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _touch(path: Path) -> None:
    """Its time says when it was of use; where that cannot be set, when it was written."""
    try:
        os.utime(path)
    except OSError:
        log.debug("the time of %s cannot be set", path)
