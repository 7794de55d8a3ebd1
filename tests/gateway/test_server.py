"""The server around the application."""

from __future__ import annotations

import socket

import httpx

from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving


def test_an_idle_connection_stays_as_long_as_it_is_told(url: str) -> None:
    assert httpx.get(f"{url}/health").headers["keep-alive"] == "timeout=75"
    with serving(ScriptedBackend(), GatewaySettings(keep_alive_seconds=1)) as short_url:
        host, port = short_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # until the server closes it
    assert b"keep-alive: timeout=1\r\n" in answer
