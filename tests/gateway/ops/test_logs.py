"""One line a request, whatever a client sends and whoever reads the log."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import quote

import httpx
import pytest
import structlog
from pydantic import SecretStr

from gateway.ops.log_stream import LogStream
from gateway.ops.logs import configure_logging, line_handler
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO, never_ending, raising
from tests.serving import ScriptedBackend, serving
from tests.waiting import wait_until
from worker.protocol import WorkerFailed

FORGED = 'x\n2026-01-01T00:00:00Z [info     ] request status=200 \x1b[2J{"event": "request"}\r\u2028end'


class Log:
    """What is logged while the test runs."""

    def __init__(self) -> None:
        self.as_json(True)

    def as_json(self, wanted: bool) -> None:
        self._buffer = io.StringIO()
        self._stream = configure_logging("info", wanted, self._buffer)

    def text(self) -> str:
        self._stream.drain()
        return self._buffer.getvalue()

    def requests(self) -> list[Any]:
        """The lines of requests; there is one at least, though maybe only after the client has its answer."""
        wait_until(lambda: '"event":"request"' in self.text())
        lines = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in lines if line["event"] == "request"]


@pytest.fixture
def logged() -> Iterator[Log]:
    yield Log()
    configure_logging("info", as_json=False)


def test_a_line_tells_all_of_an_answer_but_what_was_said(client: httpx.Client, logged: Log) -> None:
    response = client.post(CHAT, json={**HELLO, "stream": True, "user": "somebody"})
    (line,) = logged.requests()
    assert (
        line.items()
        >= {
            "request_id": response.headers["x-request-id"],
            "method": "POST",
            "route": "/chat/completions",
            "status": 200,
            "key": "anonymous",
            "model": "test-model",
            "prompt_tokens": 5,
            "cached_tokens": 3,
            "completion_tokens": 2,
            "finish_reason": "stop",
        }.items()
    )
    assert 0 <= line["first_token_ms"] <= line["ms"]
    assert "Hi" not in logged.text()
    assert "somebody" not in logged.text()


@pytest.mark.parametrize("path", ["/v1/models", "/models/", "/v1/models/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_route_has_one_name_however_it_is_asked(
    client: httpx.Client, logged: Log, path: str, method: str
) -> None:
    assert client.request(method, path).is_success
    (line,) = logged.requests()
    assert (line["route"], line["method"]) == ("/models", method)


def test_a_key_has_a_name_in_the_line_and_is_not_in_it_itself(logged: Log) -> None:
    keys = SecretStr("alice:first-secret")
    with serving(ScriptedBackend(), GatewaySettings(api_keys=keys)) as url:
        logged.as_json(True)
        httpx.post(f"{url}{CHAT}", json=HELLO, headers={"authorization": "Bearer first-secret"})
        httpx.post(f"{url}{CHAT}", json=HELLO, headers={"authorization": "Bearer wrong-secret"})
        wait_until(lambda: len(logged.requests()) == 2)
    right, wrong = logged.requests()
    assert (right["key"], right["status"]) == ("alice", 200)
    assert (wrong["key"], wrong["status"]) == ("anonymous", 401)
    assert "secret" not in logged.text()


def test_what_models_are_asked_is_logged_where_a_setting_says_so(logged: Log) -> None:
    with serving(ScriptedBackend(), GatewaySettings(log_prompts=True)) as url:
        logged.as_json(True)
        httpx.post(f"{url}{CHAT}", json=HELLO)
    assert json.loads(logged.requests()[0]["prompt"])[0]["content"] == "Hi"


def test_a_client_that_leaves_is_told_from_one_that_was_answered(
    client: httpx.Client, backend: ScriptedBackend, logged: Log
) -> None:
    backend.script = never_ending
    with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
        text = response.iter_raw()
        next(text)
    assert backend.closed.acquire(timeout=5)
    assert logged.requests()[0]["status"] == 499


def test_an_error_after_the_status_has_its_code_in_the_line(
    client: httpx.Client, backend: ScriptedBackend, logged: Log
) -> None:
    backend.script = raising(WorkerFailed("It broke."), after=1)
    assert client.post(CHAT, json={**HELLO, "stream": True}).status_code == 200
    assert logged.requests()[0]["error"] == "worker_failed"


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_that_a_client_writes_makes_a_line_of_its_own(
    client: httpx.Client, logged: Log, as_json: bool
) -> None:
    logged.as_json(as_json)
    client.get(f"/v1/models/{quote(FORGED)}")
    client.get(f"/{quote(FORGED)}")
    client.post(CHAT, json={**HELLO, "model": FORGED, "user": FORGED})
    client.post(CHAT, json={**HELLO, "messages": [{"role": "user", "content": FORGED, "name": FORGED}]})
    client.post(CHAT, json={**HELLO, FORGED: FORGED})
    client.get("/v1/models", headers={"x-request-id": '{"event": "request", "status": 200}'})
    wait_until(lambda: logged.text().count("\n") >= 6)
    text = logged.text()
    assert len(text.splitlines()) == text.count("\n") == 6
    assert all(character.isprintable() for character in text.replace("\n", ""))


@pytest.mark.parametrize("as_json", [True, False])
def test_values_and_tracebacks_cannot_fake_a_line(as_json: bool) -> None:
    buffer = io.StringIO()
    stream = configure_logging("info", as_json, buffer)
    try:
        try:
            raise ValueError(FORGED)
        except ValueError:
            structlog.get_logger().exception("failed", value=FORGED)
        stream.drain()
    finally:
        configure_logging("info", as_json=False)
    first, *rest = buffer.getvalue().split("\n")
    assert "failed" in first
    assert all(line.startswith("    ") for line in rest if line)
    assert "\x1b" not in buffer.getvalue()


@pytest.mark.parametrize("sent", ["id-1", "A.b_c-9" * 9, "0" * 64])
def test_a_clients_own_request_id_is_kept(
    client: httpx.Client, backend: ScriptedBackend, logged: Log, sent: str
) -> None:
    response = client.post(CHAT, json=HELLO, headers={"x-request-id": sent})
    assert response.headers["x-request-id"] == sent
    assert logged.requests()[0]["request_id"] == sent
    assert client.post(CHAT, json=HELLO, headers={"x-request-id": sent}).is_success
    first, second = (request.request_id for request in backend.requests)
    assert first != second  # or one client could end another's answer
    assert first.startswith(sent[:40])
    assert len(first) <= 64


@pytest.mark.parametrize("sent", ["", "a b", "é", "0" * 65, "a;b", '"}'])
def test_a_request_id_that_is_of_no_use_is_replaced(client: httpx.Client, sent: str) -> None:
    response = client.get("/v1/models", headers=[(b"x-request-id", sent.encode("latin-1"))])
    assert response.headers["x-request-id"].startswith("req_")


def test_a_pipe_that_nobody_reads_holds_nothing_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe, os.fdopen(reading) as reader:
        stream = LogStream(pipe, most=100)
        stream.CLOSE_SECONDS = 0.0
        for _ in range(1000):
            stream.write("x" * 1000 + "\n")
        assert stream.num_dropped > 0
        # Read on, and it tells what was lost.
        while "were dropped" not in reader.readline():
            pass
        stream.drain()


@pytest.mark.parametrize("full", [False, True], ids=["closed pipe", "full disk"])
def test_a_log_that_cannot_be_written_stops_nothing(full: bool) -> None:
    target = open("/dev/full", "w") if full else _closed_pipe()  # noqa: SIM115
    stream = LogStream(target)
    for _ in range(3):
        stream.write("line\n")
    stream.drain()
    assert not stream._lines.unfinished_tasks
    with contextlib.suppress(OSError):
        target.close()


def _closed_pipe() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("as_json", [True, False])
def test_libraries_lines_cannot_be_broken_either(as_json: bool) -> None:
    buffer = io.StringIO()
    record = logging.LogRecord("worker", logging.WARNING, "", 0, "of %s", (FORGED,), None)
    line_handler(buffer, as_json).handle(record)
    assert buffer.getvalue().count("\n") == 1
