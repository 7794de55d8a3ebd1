"""How much each key may ask for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from compat_tests import strict
from gateway.settings import GatewaySettings, StartError
from tests.gateway.asking import CHAT, HELLO, never_ending
from tests.serving import ScriptedBackend, serving
from worker.protocol import Accepted, ChatRequest, Event, Finished, Usage


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused(response: httpx.Response) -> str:
    """The type of a refusal that says when to come again."""
    error = strict.error(response)
    assert (response.status_code, error["code"]) == (429, "rate_limit_exceeded")
    milliseconds = int(response.headers["retry-after-ms"])
    assert 0 < milliseconds <= 60_000
    assert int(response.headers["retry-after"]) == -(-milliseconds // 1000)
    return str(error["type"])


def test_requests_are_counted_for_each_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("ada:one\nada:two\nbob:three requests=2\n")
    settings = GatewaySettings(api_keys_file=file, rate_limit_requests=3)
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        for remaining, key in ((2, "one"), (1, "two"), (0, "one")):
            headers = client.post(CHAT, json=HELLO, headers=bearer(key)).headers
            assert headers["x-ratelimit-limit-requests"] == "3"
            assert headers["x-ratelimit-remaining-requests"] == str(remaining)
            assert headers["x-ratelimit-reset-requests"].endswith("ms")
        assert refused(client.post(CHAT, json=HELLO, headers=bearer("two"))) == "requests"
        assert client.get("/v1/models", headers=bearer("two")).is_success
        for status in (200, 200, 429):
            assert client.post(CHAT, json=HELLO, headers=bearer("three")).status_code == status


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_charged_by_what_was_used(stream: bool) -> None:
    settings = GatewaySettings(rate_limit_tokens=8)
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        for remaining in ("8", "1"):  # an answer takes 5 tokens of prompt and 2 of text
            response = client.post(CHAT, json={**HELLO, "stream": stream})
            assert response.is_success
            assert response.headers["x-ratelimit-remaining-tokens"] == remaining
        assert refused(client.post(CHAT, json=HELLO)) == "tokens"


def test_a_client_that_leaves_pays_for_what_was_computed() -> None:
    backend = ScriptedBackend(never_ending)
    with (
        serving(backend, GatewaySettings(rate_limit_tokens=100)) as url,
        httpx.Client(base_url=url) as client,
    ):
        with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
            next(response.iter_lines())
        assert backend.closed.acquire(timeout=10)
        backend.script = finishing
        assert client.post(CHAT, json=HELLO).headers["x-ratelimit-remaining-tokens"] in ("94", "95")


async def finishing(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), Finished(0, "stop"), Usage(5, 0)]


def test_only_so_many_are_under_way_at_once() -> None:
    arrived, go_on = threading.Semaphore(0), threading.Event()

    async def held(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        arrived.release()
        await asyncio.to_thread(go_on.wait, 10)
        yield [Accepted(5), Finished(0, "stop"), Usage(5, 0)]

    settings = GatewaySettings(api_keys=SecretStr("ada:one, bob:two"), rate_limit_concurrent=1)
    with serving(ScriptedBackend(held), settings) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(httpx.post, url + CHAT, json=HELLO, headers=bearer("one"))
        assert arrived.acquire(timeout=10)
        assert refused(httpx.post(url + CHAT, json=HELLO, headers=bearer("one"))) == "requests"
        other = pool.submit(httpx.post, url + CHAT, json=HELLO, headers=bearer("two"))
        assert arrived.acquire(timeout=10)
        go_on.set()
        assert first.result().is_success
        assert other.result().is_success
        assert httpx.post(url + CHAT, json=HELLO, headers=bearer("one")).is_success


def test_zero_is_no_limit() -> None:
    settings = GatewaySettings(rate_limit_requests=0, rate_limit_tokens=0, rate_limit_concurrent=0)
    with serving(ScriptedBackend(), settings) as url:
        response = httpx.post(url + CHAT, json=HELLO)
    assert response.is_success
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_a_redis_that_is_away_counts_nothing_and_holds_up_nobody() -> None:
    pytest.importorskip("redis")
    settings = GatewaySettings(rate_limit_requests=1, rate_limit_redis=SecretStr("redis://127.0.0.1:1"))
    with serving(ScriptedBackend(), settings) as url:
        for _ in range(2):
            assert httpx.post(url + CHAT, json=HELLO).is_success


def test_a_wrong_redis_url_is_not_repeated() -> None:
    settings = GatewaySettings(rate_limit_redis=SecretStr("nothing://secret"))
    with pytest.raises(StartError, match="RATE_LIMIT_REDIS") as raised, serving(ScriptedBackend(), settings):
        pass
    assert "secret" not in str(raised.value)


def test_the_engine_is_told_whose_a_request_is(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.post(CHAT, json=HELLO).is_success
    assert backend.requests[0].client == "anonymous"
