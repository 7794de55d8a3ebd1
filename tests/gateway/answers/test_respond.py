"""Answers that fail, end early, or are told to: by their status, or by their stream's last event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO, TEXT, frames, never_accepting, never_ending, raising
from tests.serving import ScriptedBackend, say_hello, serving
from worker.protocol import (
    Accepted,
    ChatRequest,
    ContextLengthExceeded,
    Event,
    Finished,
    Overloaded,
    TextDelta,
    WorkerFailed,
)

NO_GRACE = GatewaySettings(shutdown_grace_seconds=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ContextLengthExceeded(512, 600), 400, "context_length_exceeded"),
        (Overloaded("The queue is full.", 2.5), 429, "rate_limit_exceeded"),
        (WorkerFailed("The engine has stopped."), 503, "worker_failed"),
        (RuntimeError("a secret of the inside"), 500, "internal_error"),
    ],
)
def test_what_fails_before_the_first_token_has_a_status(
    client: httpx.Client, backend: ScriptedBackend, stream: bool, failure: Exception, status: int, code: str
) -> None:
    backend.script = raising(failure, after=0)
    response = client.post(CHAT, json={**HELLO, "stream": stream})
    assert response.status_code == status
    assert strict.error(response)["code"] == code
    assert "secret" not in response.text


@pytest.mark.parametrize("failure", [WorkerFailed("The engine has stopped."), RuntimeError("a secret")])
def test_what_fails_after_the_first_token_is_the_streams_last_event(
    client: httpx.Client, backend: ScriptedBackend, failure: Exception
) -> None:
    backend.script = raising(failure, after=1)
    response = client.post(CHAT, json={**HELLO, "stream": True})
    assert response.status_code == 200
    last = frames(response)[-1]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["type"] == "server_error"
    assert "secret" not in response.text


async def end_without_reason(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Hel"), Finished(0, "stop"), TextDelta(1, "x")]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_never_just_ends(client: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    backend.script = end_without_reason
    request = {**HELLO, "prompt": "x", "n": 2}
    whole = client.post(path, json=request)
    assert whole.status_code == 503
    assert "before the answer was complete" in strict.error(whole)["message"]
    streamed = client.post(path, json={**request, "stream": True}).text
    assert streamed.rstrip().rpartition("\n")[2].startswith('data: {"error":')
    assert "[DONE]" not in streamed


def stopped(stopping: asyncio.Event, accepting: bool) -> Any:
    """The server is told to stop while the answer is under way."""

    async def script(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        if accepting:
            yield [Accepted(5), TextDelta(0, "Once")]
        stopping.set()
        await asyncio.Event().wait()

    return script


@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), ("/generate", {"message": "Hi"})])
def test_a_stopping_server_answers_what_it_cannot_finish(
    path: str, body: dict[str, Any], accepting: bool
) -> None:
    stopping = asyncio.Event()
    with (
        serving(ScriptedBackend(stopped(stopping, accepting)), NO_GRACE, stopping) as url,
        httpx.Client(base_url=url) as client,
    ):
        response = client.post(path, json=body)
        assert response.status_code == 503
        assert strict.error(response)["code"] == "worker_failed"
        assert "shutting down" in strict.error(response)["message"]


@pytest.mark.parametrize("accepting", [False, True])
def test_a_stopping_server_tells_streams_too_what_it_cannot_finish(accepting: bool) -> None:
    """By the status as long as the stream is not open, else by its last event."""
    stopping = asyncio.Event()
    with serving(ScriptedBackend(stopped(stopping, accepting)), NO_GRACE, stopping) as url:
        response = httpx.post(url + CHAT, json={**HELLO, "stream": True})
    assert response.status_code == (200 if accepting else 503)
    envelope = frames(response)[-1] if accepting else response.json()
    assert "shutting down" in envelope["error"]["message"]


def test_a_stopping_server_lets_answers_finish_in_the_time_of_grace() -> None:
    stopping = asyncio.Event()

    async def finishing(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        stopping.set()
        async for batch in say_hello(backend, request):
            await asyncio.sleep(0)
            yield batch

    with serving(ScriptedBackend(finishing), GatewaySettings(), stopping) as url:
        assert httpx.post(url + CHAT, json=HELLO).is_success


@pytest.mark.parametrize("script", [never_ending, never_accepting])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(
    client: httpx.Client, backend: ScriptedBackend, script: Any, stream: bool
) -> None:
    backend.script = script
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json={**HELLO, "stream": stream}, timeout=0.3)
    assert backend.closed.acquire(timeout=5)


def test_silence_is_bridged_by_heartbeats() -> None:
    """Also where the worker is slow to accept: the stream opens, and errors become events."""
    backend = ScriptedBackend(never_accepting)
    settings = GatewaySettings(heartbeat_seconds=0.05, first_event_seconds=0.05)
    with (
        serving(backend, settings) as url,
        httpx.stream("POST", url + CHAT, json={**HELLO, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        assert '"role":"assistant"' in next(lines)
        assert [next(lines) for _ in range(3)] == ["", ": keep-alive", ""]
    assert backend.closed.acquire(timeout=5)
