"""The first deployment's route."""

from __future__ import annotations

import httpx

from tests.serving import ScriptedBackend


def test_generate_keeps_its_shape(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.post("/generate", json={"message": "Hi"}).json() == {"response": "Hello"}
    assert backend.requests[0].messages == [{"role": "user", "content": "Hi"}]
