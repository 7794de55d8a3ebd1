"""Tools, and what became of a chat that was asked for."""

from __future__ import annotations

from typing import Any

import httpx

from tests.gateway.asking import CHAT, HELLO
from tests.serving import ScriptedBackend
from worker.protocol import ChatRequest

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
WEATHER = {"type": "function", "function": FUNCTION}
TIME = {"type": "function", "function": {"name": "get_time"}}
CUSTOM = {"type": "custom", "custom": {"name": "shell"}}


def asked(client: httpx.Client, backend: ScriptedBackend, **change: Any) -> ChatRequest:
    client.post(CHAT, json={**HELLO, **change}).raise_for_status()
    request = backend.requests[-1]
    assert isinstance(request, ChatRequest)
    return request
