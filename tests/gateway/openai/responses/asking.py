"""What the tests of responses ask, and what became of it."""

from __future__ import annotations

from typing import Any

import httpx

from tests.serving import ScriptedBackend
from worker.protocol import ChatRequest

RESPONSES = "/v1/responses"
HELLO: dict[str, Any] = {"model": "test-model", "input": "Hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
TIME = {"type": "function", "name": "get_time", "strict": True}


def asked(client: httpx.Client, backend: ScriptedBackend, **change: Any) -> ChatRequest:
    client.post(RESPONSES, json={**HELLO, **change}).raise_for_status()
    request = backend.requests[-1]
    assert isinstance(request, ChatRequest)
    return request
