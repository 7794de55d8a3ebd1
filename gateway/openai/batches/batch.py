"""A batch as it is kept and goes out, and the lines that it is made of."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from typing_extensions import TypedDict

from gateway.caller import ANYBODY, Caller
from gateway.errors import APIError
from gateway.openai.file_store import FileStore, newest, read_json, write_json

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MOST_REQUESTS = 50_000
MOST_LINE_BYTES = 4 << 20  # as MAX_BODY_BYTES has it for a request of its own
MOST_FAULTS = 100  # that are told of one file
WINDOW_SECONDS = 24 * 3600

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED = ("failed", "completed", "expired", "cancelled")


class Fault(TypedDict):
    """What is wrong with a line of the input; `line` counts from 1."""

    code: str
    line: int | None
    message: str
    param: str | None


class Faults(TypedDict):
    object: Literal["list"]
    data: list[Fault]


class Counts(TypedDict):
    total: int
    completed: int
    failed: int


class Batch(TypedDict):
    """Times are Unix times in seconds, and null until then."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: Faults | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None


def new_batch(endpoint: str, input_file_id: str, metadata: dict[str, str] | None, now: float) -> Batch:
    return {
        "id": f"batch_{secrets.token_hex(12)}",
        "object": "batch",
        "endpoint": endpoint,
        "errors": None,
        "input_file_id": input_file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(now),
        "in_progress_at": None,
        "expires_at": int(now) + WINDOW_SECONDS,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
    }


def find_batch(folder: Path, batch_id: str) -> Batch | None:
    """As its client sees it: cancelled from the moment that it asked."""
    batch: Batch | None = read_json(folder / f"{batch_id}.json")
    asked = read_json(folder / f"{batch_id}.cancel")
    if batch and asked and batch["status"] not in ENDED:
        batch["status"], batch["cancelling_at"] = "cancelling", asked["at"]
    return batch


def write_caller(folder: Path, batch_id: str, caller: Caller) -> None:
    write_json(folder / f"{batch_id}.caller", caller.name)


def read_caller(folder: Path, batch_id: str) -> Caller:
    name = read_json(folder / f"{batch_id}.caller")
    return ANYBODY if name is None else Caller(name)


def kept_batches(store: FileStore, owner: str) -> list[Batch]:
    """The newest first. Those that ended long ago are removed, as files are."""
    folder, found = store.batches(owner), []
    for batch in newest(folder):
        if batch["status"] in ENDED and batch["created_at"] < store.clock() - store.seconds:
            for ending in ("json", "caller", "cancel"):
                (folder / f"{batch['id']}.{ending}").unlink(missing_ok=True)
        elif current := find_batch(folder, batch["id"]):
            found.append(current)
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; `body` is JSON."""

    custom_id: str
    body: bytes


class FaultyLine(Exception):
    """`args[0]` is the Fault."""


def read_lines(path: Path, endpoint: str) -> Iterator[Line | Fault]:
    """One for each line that is not blank; no more than a line of the file is in memory."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    line = _line(text, number, endpoint)
                    if line.custom_id in seen:
                        raise _fault(
                            number, "duplicate_custom_id", "another line has this custom_id", "custom_id"
                        )
                    seen.add(line.custom_id)
                    yield line
                except FaultyLine as fault:
                    yield fault.args[0]


def _line(text: bytes, number: int, endpoint: str) -> Line:
    if len(text) > MOST_LINE_BYTES:
        raise _fault(number, "line_too_large", f"it has more than {MOST_LINE_BYTES} bytes", None)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _fault(number, "invalid_json_line", f"it is not valid JSON: {error}", None) from None
    if not isinstance(value, dict):
        raise _fault(number, "invalid_json_line", "it is not a JSON object", None)
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise _fault(number, "missing_required_parameter", "a custom_id is needed, as text", "custom_id")
    if value.get("method") != "POST":
        raise _fault(number, "invalid_method", "the method has to be POST", "method")
    if value.get("url") != endpoint:
        raise _fault(number, "mismatched_endpoint", f"the url has to be the batch's: {endpoint}", "url")
    if not isinstance(body, dict):
        raise _fault(number, "missing_required_parameter", "a body is needed, a JSON object", "body")
    if body.get("stream"):
        raise _fault(number, "unsupported_parameter", "answers of a batch are not streamed", "body.stream")
    return Line(custom_id, orjson.dumps(body))


def _fault(number: int, code: str, why: str, param: str | None) -> FaultyLine:
    return FaultyLine({"code": code, "line": number, "message": f"Line {number}: {why}.", "param": param})


def check(path: Path, endpoint: str) -> tuple[int, list[Fault]]:
    """How many requests there are, and what is wrong with them."""
    total = 0
    faults: list[Fault] = []
    for each in read_lines(path, endpoint):
        total += 1
        if not isinstance(each, Line) and len(faults) < MOST_FAULTS:
            faults.append(each)
    if total == 0:
        faults.append(
            {"code": "empty_file", "line": None, "message": "The file has no requests.", "param": None}
        )
    if total > MOST_REQUESTS:
        message = f"The file has {total} requests, more than {MOST_REQUESTS}. Split it."
        faults.append({"code": "too_many_requests", "line": None, "message": message, "param": None})
    return total, faults


class Answered(TypedDict):
    """A line of the output: what a request of its own would have been answered."""

    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: dict[str, str] | None


def batch_not_found(batch_id: str) -> APIError:
    return APIError(404, f"No batch found with id '{batch_id}'.", param="id", code="batch_not_found")
