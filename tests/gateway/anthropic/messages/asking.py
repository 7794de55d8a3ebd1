"""What the tests of messages ask, and what became of it."""

from __future__ import annotations

from typing import Any

import httpx

from tests.serving import ScriptedBackend
from worker.protocol import ChatRequest

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HI: dict[str, Any] = {"role": "user", "content": "Hi"}
HELLO: dict[str, Any] = {"model": "test-model", "max_tokens": 100, "messages": [HI]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}
TIME = {"name": "get_time", "input_schema": {"type": "object"}, "strict": True, "type": "custom"}


def asked(client: httpx.Client, backend: ScriptedBackend, **change: Any) -> ChatRequest:
    client.post(MESSAGES, json={**HELLO, **change}).raise_for_status()
    request = backend.requests[-1]
    assert isinstance(request, ChatRequest)
    return request
