"""Whether requests can be answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest

from compat_tests import strict
from gateway.ops import health
from tests.gateway.asking import never_accepting, raising
from tests.serving import ScriptedBackend, serving
from worker.protocol import (
    Accepted,
    CompletionRequest,
    EmbeddingRequest,
    Event,
    ModelInfo,
    Overloaded,
    WorkerFailed,
)


def test_health_tells_of_a_dead_engine(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    backend.health = WorkerFailed("The engine has stopped.")
    response = client.get("/health")
    assert response.status_code == 503
    assert "engine has stopped" in strict.error(response)["message"]


def test_ready_tells_every_reason_against_it(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.get("/ready").json() == {"status": "ready"}
    backend.reasons = ["The queue is full.", "The engine is stuck."]
    response = client.get("/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    error = strict.error(response)
    assert error["code"] == "not_ready"
    assert error["message"].startswith("The queue is full. The engine is stuck.")
    assert client.get("/health").is_success
    assert not backend.requests


def test_a_stopping_server_is_not_ready_but_lives() -> None:
    stopping = asyncio.Event()
    with serving(ScriptedBackend(), stopping=stopping) as url:
        stopping.set()
        response = httpx.get(f"{url}/ready")
        assert "is stopping" in strict.error(response)["message"]
        assert httpx.get(f"{url}/health").is_success
        for path in ("/v1/models", "/nowhere"):
            refused = httpx.get(f"{url}{path}")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert strict.error(refused)["code"] == "server_stopping"


def test_a_deep_check_of_an_embedding_model_asks_for_a_vector(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    async def embed(backend: ScriptedBackend, request: EmbeddingRequest) -> AsyncGenerator[list[Event]]:
        yield [Accepted(3)]

    backend.script = embed
    backend.served = [ModelInfo("test-model", 1700000000, 512, "embedding")]
    assert client.get("/ready", params={"deep": 1}).is_success
    (request,) = backend.requests
    assert isinstance(request, EmbeddingRequest)


def test_a_deep_check_computes_one_token(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.get("/ready", params={"deep": 1}).is_success
    (request,) = backend.requests
    assert isinstance(request, CompletionRequest)
    assert request.sampling.max_tokens == 1


@pytest.mark.parametrize("failure", [WorkerFailed("It broke."), Overloaded("It is busy.")])
def test_a_deep_check_tells_what_the_worker_says(
    client: httpx.Client, backend: ScriptedBackend, failure: Exception
) -> None:
    backend.script = raising(failure, after=0)
    response = client.get("/ready", params={"deep": "true"})
    assert response.status_code == 503
    assert str(failure) in strict.error(response)["message"]


def test_a_deep_check_does_not_wait_for_ever(
    client: httpx.Client, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "DEEP_SECONDS", 0.05)
    backend.script = never_accepting
    assert "No token" in strict.error(client.get("/ready", params={"deep": 1}))["message"]
    assert backend.closed.acquire(timeout=5)


def test_a_deep_check_that_is_neither_yes_nor_no_is_refused(client: httpx.Client) -> None:
    response = client.get("/ready", params={"deep": "very"})
    assert response.status_code == 400
    assert strict.error(response)["param"] == "deep"
