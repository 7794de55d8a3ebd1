"""The server around the application."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import pytest
from pydantic import SecretStr

from gateway.server import listen
from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving


def test_an_idle_connection_stays_as_long_as_it_is_told(url: str) -> None:
    assert httpx.get(f"{url}/health").headers["keep-alive"] == "timeout=75"
    with serving(ScriptedBackend(), GatewaySettings(keep_alive_seconds=1)) as short_url:
        host, port = short_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # until the server closes it
    assert b"keep-alive: timeout=1\r\n" in answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_speaks_http_1_0_gets_no_chunks(url: str, stream: bool) -> None:
    body = json.dumps(
        {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    )
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        request = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nHost: {host}\r\n"
        connection.sendall(f"{request}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # until the server closes it
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert b"\r\nconnection: keep-alive" not in head
    if stream:
        assert text.startswith(b"data: {")
        assert text.endswith(b"}\n\ndata: [DONE]\n\n")
    else:
        assert json.loads(text)["choices"][0]["message"]["content"] == "Hello"


def test_under_a_proxys_path_the_docs_find_their_document() -> None:
    settings = GatewaySettings(root_path="/llm", api_keys=SecretStr("key"))
    key = {"Authorization": "Bearer key"}
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url, headers=key) as client:
        assert '"/llm/openapi.json"' in client.get("/docs").text.replace("'", '"')
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/llm"}]
        assert client.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert client.get("/v1/models").is_success


def test_answers_are_not_held_back_by_nagles_delay() -> None:
    """Without uvloop, asyncio switches it off only on sockets that name their protocol."""

    async def delay_is_off() -> bool:
        accepted = asyncio.get_running_loop().create_future()
        listener = listen("127.0.0.1", 0)
        server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener)
        _, client = await asyncio.open_connection(*listener.getsockname())
        writer = await accepted
        off = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for each in (writer, client):
            each.close()
            await each.wait_closed()
        server.close()
        await server.wait_closed()
        return bool(off)

    assert asyncio.run(delay_is_off())
