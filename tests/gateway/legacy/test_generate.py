"""The first deployment's route."""

from __future__ import annotations

import httpx

from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving


def test_generate_keeps_its_shape(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.post("/generate", json={"message": "Hi"}).json() == {"response": "Hello"}
    assert backend.requests[0].messages == [{"role": "user", "content": "Hi"}]


def test_an_answer_has_an_end() -> None:
    backend = ScriptedBackend()
    with serving(backend, GatewaySettings(generate_max_tokens=7)) as url:
        httpx.post(f"{url}/generate", json={"message": "Hi"}).raise_for_status()
    assert backend.requests[0].sampling.max_tokens == 7
