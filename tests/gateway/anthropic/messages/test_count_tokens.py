"""How tokens are counted without an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx

from compat_tests import strict_messages as strict
from tests.gateway.anthropic.messages.asking import COUNT, HELLO, MESSAGES, WEATHER
from tests.serving import ScriptedBackend
from worker.protocol import Accepted, ChatRequest, Event, SamplingParams

PROMPT: dict[str, Any] = {
    **{name: value for name, value in HELLO.items() if name != "max_tokens"},
    "system": "Be brief.",
    "tools": [WEATHER],
    "tool_choice": {"type": "any"},
    "thinking": {"type": "disabled"},
}


async def count(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(42)]


def test_the_worker_counts_the_prompt_that_it_would_answer(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    client.post(MESSAGES, json={**PROMPT, "max_tokens": 9}).raise_for_status()
    backend.script = count
    assert client.post(COUNT, json=PROMPT).json() == {"input_tokens": 42}
    answered, counted = backend.requests
    assert counted.count_only
    same = {"request_id": "", "sampling": SamplingParams(), "count_only": False, "client": ""}
    assert replace(counted, **same) == replace(answered, **same)


async def nothing(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    return
    yield []


def test_a_worker_that_does_not_count_is_an_error(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = nothing
    response = client.post(COUNT, json=PROMPT)
    assert response.status_code == 503
    assert strict.error(response)["type"] == "api_error"
