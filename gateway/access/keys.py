"""Keys as an operator writes them, and whose key a client sent. Known by their hashes only."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.caller import ANYBODY, Allowance, Caller
from gateway.settings import GatewaySettings, StartError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
FORM = "NAME:KEY, or NAME:sha256:HEX as `llama-gateway key NAME` prints it"
SECONDS_BETWEEN_LOOKS = 1.0

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Key:
    """A key's SHA-256, and who has it."""

    digest: bytes
    caller: Caller


class KeyRing:
    """The keys of API_KEYS and of API_KEYS_FILE, which is read again when it has changed.

    Without either the server is open, which start-up allows only on purpose. An empty file opens nothing.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises StartError for keys that cannot be read."""
        self.is_open = not settings.asks_for_keys
        self._keys = parse_list(settings.key_list)
        self._path = settings.api_keys_file
        self._seen, self._looked = None if self._path is None else _state(self._path), time.monotonic()
        self._keys_in_file = [] if self._path is None else read_file(self._path)

    def caller(self, key: str) -> Caller | None:
        """Whose key it is. Every key is compared, so that timing tells nothing of which one came close."""
        if self.is_open:
            return ANYBODY
        self._look_again()
        digest = hashlib.sha256(key.encode("latin-1")).digest()  # the bytes that were sent: UTF-8, as a rule
        keys = [*self._keys, *self._keys_in_file]
        same = [known.caller for known in keys if hmac.compare_digest(digest, known.digest)]
        return same[0] if same else None

    def _look_again(self) -> None:
        """A file that cannot be read, or not all of it, changes nothing: a slip must not lock all out."""
        now = time.monotonic()
        if self._path is None or now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys_in_file = read_file(self._path)
        except StartError as error:
            log.error("keys_not_reread", why=str(error))
        else:
            log.info("keys_reread", file=str(self._path), keys=len(self._keys_in_file))


def read_file(path: Path) -> list[Key]:
    """One key a line, and its own limits after it; empty lines and those that begin with # say nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StartError(
            f"API_KEYS_FILE={path} cannot be read: {why}. Give the path of a file of keys."
        ) from error
    return list(_parsed_lines(path, lines))


def _parsed_lines(path: Path, lines: Iterable[str]) -> Iterator[Key]:
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            name, separator, _ = entry.partition(":")
            if not separator or not NAME.fullmatch(name):
                raise StartError(f"Line {number} of API_KEYS_FILE={path} is not {FORM}.")
            yield parse(entry, name, f"Line {number} of API_KEYS_FILE={path}")


def parse_list(entries: Sequence[str]) -> list[Key]:
    """API_KEYS: as in a file, or a key alone, which is known by its place."""
    return [parse(entry, f"key-{number}", "A key in API_KEYS") for number, entry in enumerate(entries, 1)]


def parse(entry: str, default_name: str, where: str) -> Key:
    entry, *words = entry.split()
    name, separator, rest = entry.partition(":")
    if not separator or not NAME.fullmatch(name):
        name, rest = default_name, entry
    if not rest:
        raise StartError(f"{where} is empty: write {FORM}.")
    caller = Caller(name, _allowance(words, where))
    if not rest.startswith("sha256:"):
        return Key(hashlib.sha256(rest.encode()).digest(), caller)
    digest = rest.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise StartError(f"{where} has a hash that is not 64 hexadecimal digits: write {FORM}.")
    return Key(bytes.fromhex(digest), caller)


def _allowance(words: Sequence[str], where: str) -> Allowance:
    """`requests=60 tokens=100000 concurrent=4`, any of them."""
    limits: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in ("requests", "tokens", "concurrent") or not re.fullmatch(r"[0-9]{1,12}", number):
            raise StartError(
                f"{where} may end with requests=N, tokens=N and concurrent=N, but not with more."
            )
        limits[name] = int(number)
    return Allowance(**limits)


def new_key(name: str) -> tuple[str, str]:
    """A random key, and the line by which a server knows it. Raises StartError for a name it cannot have."""
    if not NAME.fullmatch(name):
        raise StartError(f"{name!r} cannot name a key: use letters, digits, and . _ @ - after the first.")
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, or is replaced."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
