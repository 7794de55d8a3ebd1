"""What routes depend on is handed over on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread
import httpx
import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO, TEXT
from tests.serving import ScriptedBackend

ASKED: dict[str, dict[str, Any]] = {
    CHAT: HELLO,
    TEXT: {"model": "test-model", "prompt": "Hi"},
    "/v1/responses": {"model": "test-model", "input": "Hi", "store": False},
    "/v1/messages": HELLO | {"max_tokens": 10},
    "/generate": {"message": "Hi"},
}


@pytest.mark.parametrize("path", ASKED)
def test_no_request_takes_the_way_through_a_thread(path: str) -> None:
    """FastAPI calls what is no coroutine in one: a wake-up that waits for whoever holds the interpreter."""

    async def answered_while_all_threads_are_busy() -> httpx.Response:
        threads = anyio.to_thread.current_default_thread_limiter()
        for _ in range(int(threads.total_tokens)):
            await threads.acquire_on_behalf_of(object())
        app = create_app(ScriptedBackend(), GatewaySettings(allow_anonymous=True))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await asyncio.wait_for(client.post(path, json=ASKED[path]), 5)

    assert asyncio.run(answered_while_all_threads_are_busy()).status_code == 200
