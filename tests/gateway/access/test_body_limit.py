"""How large a request may be."""

from __future__ import annotations

import socket
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


def test_a_client_that_asks_before_it_sends_is_refused_at_once(client: httpx.Client) -> None:
    """As curl does with large bodies: nothing of it needs to be sent for the answer to arrive."""
    asking = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=10
    ) as connection:
        connection.sendall(asking.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"request_too_large"' in answer
