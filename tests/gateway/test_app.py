"""Where the routes are."""

from __future__ import annotations

import httpx

from tests.gateway.asking import CHAT, HELLO, TEXT


def test_openais_routes_are_found_without_v1_too(client: httpx.Client) -> None:
    assert client.get("/models").json() == client.get("/v1/models").json()
    for path in (CHAT, TEXT):
        assert client.post(path.removeprefix("/v1"), json={**HELLO, "prompt": "x"}).is_success
    paths = client.get("/openapi.json").json()["paths"]
    assert CHAT in paths
    assert CHAT.removeprefix("/v1") not in paths
