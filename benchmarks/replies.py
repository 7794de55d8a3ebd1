"""Recorded bytes to replies: when text came, how many tokens, whether the answer was whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from benchmarks.client import Recording, Stamped


@dataclass(frozen=True, slots=True)
class Reply:
    """One exchange decoded. `content_times` has an entry for each event with text or part of a call."""

    sent: float
    closed: float
    content_times: tuple[float, ...]
    tokens: int
    error: str | None
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, as far as the server says so
    opening: bool = False
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()  # of tools: name and arguments

    @property
    def time_to_first_token(self) -> float:
        return self.content_times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive pieces of text, as a reader sees them."""
        return [later - earlier for earlier, later in pairwise(self.content_times)]


def decode(recording: Recording) -> Reply:
    """What the recorded answer amounts to: when text came, how many tokens, whether it was whole."""
    status, body = split_head(recording.pieces)
    error = recording.error or (None if status == 200 else f"HTTP status {status}")
    reply = decode_body(body, recording.sent, error)
    return replace(reply, closed=recording.closed, opening=recording.opening)


def decode_body(body: Iterable[Stamped], sent: float, error: str | None = None) -> Reply:
    """The same of a body alone, which may still be arriving; `closed` is when its last event came."""
    times: list[float] = []
    text: list[str] = []
    calls: dict[int, list[str]] = {}
    usage: dict[str, Any] = {}
    finished, closed = False, sent
    for when, payload in events(body):
        closed = when
        if payload == b"[DONE]":
            continue
        event = json.loads(payload)
        if "error" in event:
            error = f"error event: {event['error']}"
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            finished = finished or choice.get("finish_reason") is not None
            content, fragments = choice["delta"].get("content"), choice["delta"].get("tool_calls")
            if content or fragments:
                times.append(when)
            text.append(content or "")
            _join_calls(calls, fragments or ())
    if error is None and not finished:
        error = "the stream ended early"
    return Reply(
        sent,
        closed,
        tuple(times),
        usage.get("completion_tokens", len(times)),
        error,
        usage.get("prompt_tokens", 0),
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        text="".join(text),
        calls=tuple((name, arguments) for name, arguments in calls.values()),
    )


def _join_calls(calls: dict[int, list[str]], fragments: Iterable[dict[str, Any]]) -> None:
    """Add what one event brings of each call's name and arguments."""
    for fragment in fragments:
        call = calls.setdefault(fragment["index"], ["", ""])
        function = fragment.get("function") or {}
        call[0] += function.get("name") or ""
        call[1] += function.get("arguments") or ""


def split_head(pieces: Sequence[Stamped]) -> tuple[int, list[Stamped]]:
    """The status code (0 without a complete head) and the stamped body without its HTTP framing."""
    head = b""
    for index, (when, data) in enumerate(pieces):
        head += data
        if b"\r\n\r\n" in head:
            head, _, rest = head.partition(b"\r\n\r\n")
            body = [(when, rest), *pieces[index + 1 :]]
            chunked = b"transfer-encoding: chunked" in head.lower()
            return int(head.split(maxsplit=2)[1]), list(dechunk(body)) if chunked else body
    return 0, []


def dechunk(pieces: Iterable[Stamped]) -> Iterator[Stamped]:
    """Remove HTTP/1.1 chunk framing; a chunk's time is the arrival of its last byte."""
    buffer = b""
    for when, data in pieces:
        buffer += data
        while (line_end := buffer.find(b"\r\n")) >= 0:
            end = line_end + 2 + int(buffer[:line_end].partition(b";")[0], 16)
            if len(buffer) < end + 2:
                break
            yield when, buffer[line_end + 2 : end]
            buffer = buffer[end + 2 :]


def events(pieces: Iterable[Stamped]) -> Iterator[Stamped]:
    """The payload of every `data:` line; OpenAI streams never spread one event over several lines."""
    buffer = b""
    for when, data in pieces:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield when, line[5:].strip()
