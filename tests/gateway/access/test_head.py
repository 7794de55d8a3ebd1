"""HEAD, which monitors and proxies send."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/test-model", "/openapi.json"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/chat/completions", 405)])
def test_where_there_is_no_get_there_is_no_head(client: httpx.Client, path: str, status: int) -> None:
    assert client.head(path).status_code == status
