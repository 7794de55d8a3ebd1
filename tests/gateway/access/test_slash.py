"""Paths with a slash at their end."""

from __future__ import annotations

import httpx

from compat_tests import strict
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO
from tests.serving import ScriptedBackend, serving


def test_a_slash_at_the_end_changes_nothing(client: httpx.Client) -> None:
    assert client.post(f"{CHAT}/", json=HELLO).json()["choices"][0]["message"]["content"] == "Hello"
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
    assert strict.error(client.get("/v1/nothing/"))["code"] == "unknown_url"
    assert client.get("/").status_code != 500


def test_the_same_behind_a_proxys_path() -> None:
    with serving(ScriptedBackend(), GatewaySettings(root_path="/llm")) as url:
        assert httpx.get(f"{url}/health/").json() == {"status": "ok"}
