"""What the gateway's tests ask, and scripts of workers that fail or hang."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from tests.serving import ScriptedBackend
from worker.protocol import Accepted, ChatRequest, Event, TextDelta

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}


def frames(response: httpx.Response) -> list[Any]:
    """The data of each event; every event is one `data:` line and one empty line."""
    events = response.text.split("\n\n")
    assert events.pop() == ""
    data = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    return [json.loads(text) if text != "[DONE]" else text for text in data]


def raising(failure: Exception, *, after: int) -> Any:
    async def script(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        if after:
            yield [Accepted(5), TextDelta(0, "Once")]
        raise failure

    return script


async def never_ending(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Once")]
    await asyncio.Event().wait()


async def never_accepting(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    await asyncio.Event().wait()
    yield []
