"""Whether requests can be answered."""

from __future__ import annotations

import httpx

from compat_tests import strict
from tests.serving import ScriptedBackend
from worker.protocol import WorkerFailed


def test_health_tells_of_a_dead_engine(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    backend.health = WorkerFailed("The engine has stopped.")
    response = client.get("/health")
    assert response.status_code == 503
    assert "engine has stopped" in strict.error(response)["message"]
