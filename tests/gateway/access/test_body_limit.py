"""How large a request may be."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from compat_tests import strict
from tests.gateway.asking import CHAT


def test_a_body_without_declared_length_is_limited_too(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield b"x" * 65536

    response = client.post(CHAT, content=endless(), headers={"Content-Type": "application/json"})
    assert strict.error(response)["code"] == "request_too_large"
