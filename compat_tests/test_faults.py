"""What goes wrong around a server, done to a real one: `make faults`. docs/reliability.md has the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO

import httpx
import pytest

from compat_tests.server import NEVER_ENDS, ServerProcess, clean_environment, running_server
from tests.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

MODEL = "SmolLM2-135M-Instruct"
SETTINGS = {"LLM_CTX": "1024", "LLM_SLOTS": "4", "LOG_LEVEL": "warning", "METRICS_PUBLIC": "true"}
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
STREAM = {**QUESTION, "stream": True, "logit_bias": NEVER_ENDS}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server(**SETTINGS) as server:
        yield server
        assert "Traceback" not in server.printed()


def assert_answers(server: ServerProcess) -> None:
    """One more client is answered, and nothing is left of those before."""
    answer = httpx.post(
        f"{server.base_url}/chat/completions", json={**QUESTION, "max_tokens": 3}, timeout=180
    )
    assert answer.json()["usage"]["completion_tokens"] == 3
    wait_until(lambda: busy(server) == 0, seconds=60)
    assert httpx.get(f"{server.url}/ready", params={"deep": 1}, timeout=30).is_success


def busy(server: ServerProcess) -> float:
    """Sequences that run or wait."""
    figures = httpx.get(f"{server.url}/metrics", timeout=30).text
    return sum(
        float(n)
        for n in re.findall(r"^llamacpp:requests_(?:processing|deferred)\{.*\} (\S+)$", figures, re.M)
    )


def address(server: ServerProcess) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def post(body: object, path: str = "/v1/chat/completions") -> bytes:
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


@contextlib.asynccontextmanager
async def connections(server: ServerProcess, number: int, sent: bytes = b"") -> AsyncIterator[None]:
    """So many clients, each of which has sent `sent` and neither reads nor sends any more."""
    host, port = address(server)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as opened:
        for _ in range(number):
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            await loop.sock_connect(client, (host, port))
            if sent:
                await loop.sock_sendall(client, sent)
        yield


HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
HALF_BODY = post(QUESTION)[:-20]


@pytest.mark.parametrize(
    ("number", "sent"),
    [
        pytest.param(
            200,
            post({**STREAM, "max_tokens": 20, "logprobs": True, "top_logprobs": 20}),
            id="200 that do not read their streams",
        ),
        pytest.param(200, HALF_HEAD, id="200 half heads"),
        pytest.param(200, HALF_BODY, id="200 half bodies"),
        pytest.param(10_000, b"", id="10,000 idle"),
        pytest.param(10_000, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", id="10,000 kept alive"),
    ],
)
def test_clients_that_hold_on_to_their_connections_keep_nobody_else_waiting(
    server: ServerProcess, number: int, sent: bytes
) -> None:
    async def hold() -> None:
        async with connections(server, number, sent):
            await asyncio.to_thread(assert_answers, server)

    asyncio.run(hold())
    assert_answers(server)


def test_a_thousand_clients_that_leave_at_random_leave_nothing_behind(server: ServerProcess) -> None:
    host, port = address(server)
    rng = random.Random(1)

    async def ask_and_leave(seconds: float) -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(post({**STREAM, "max_tokens": 200}))
        await asyncio.sleep(seconds)
        writer.transport.abort()

    async def load() -> None:
        await asyncio.gather(*(ask_and_leave(rng.random() * 5) for _ in range(1000)))

    asyncio.run(load())
    assert_answers(server)


BROKEN: list[Callable[[random.Random], bytes]] = [
    lambda rng: rng.randbytes(rng.randrange(1, 200)) + b"\r\n\r\n",
    lambda rng: b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    lambda rng: (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        + rng.randbytes(2)
    ),
    lambda rng: b"GET /" + b"%00" * rng.randrange(1, 50) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    lambda rng: post({**QUESTION, "temperature": rng.choice(["x", -1, [], {}, 1e400])}),
    lambda rng: post({"model": MODEL, "messages": rng.choice([[], {}, "x", [1], [{"role": "x"}]])}),
    lambda rng: post({"model": "\x00" * rng.randrange(1, 100), "messages": QUESTION["messages"]}),
    lambda rng: post([[]] * rng.randrange(1, 100)),
    lambda rng: post({}, path="/v1/completions"),
    lambda rng: post(
        {**QUESTION, "response_format": {"type": "json_schema", "json_schema": rng.choice([1, "x"])}}
    ),
]


def test_ten_thousand_malformed_requests_are_all_refused(server: ServerProcess) -> None:
    host, port = address(server)
    statuses: dict[bytes, int] = {}

    async def send(number: int, free: asyncio.Semaphore) -> None:
        rng = random.Random(number)
        async with free:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(BROKEN[number % len(BROKEN)](rng))
            try:
                line = await asyncio.wait_for(reader.readline(), 30)
            except ConnectionError:
                line = b""
            except TimeoutError:
                line = b"HTTP/1.1 none-to-kind-%d" % (number % len(BROKEN))
            finally:
                writer.transport.abort()
            status = line.split()[1] if line else b"closed"
            statuses[status] = statuses.get(status, 0) + 1

    async def load() -> None:
        free = asyncio.Semaphore(100)
        await asyncio.gather(*(send(number, free) for number in range(10_000)))

    asyncio.run(load())
    assert sum(statuses.values()) == 10_000
    assert set(statuses) <= {b"400", b"404", b"422", b"closed"}, statuses
    assert_answers(server)


def test_a_full_queue_is_told_and_is_over_when_it_is_over() -> None:
    with running_server(**{**SETTINGS, "LLM_SLOTS": "1", "LLM_MAX_WAITING": "1"}) as server:

        async def fill() -> None:
            async with connections(server, 2, post({**STREAM, "max_tokens": 900})):
                await asyncio.to_thread(wait_until, lambda: busy(server) == 2)
                refused = await asyncio.to_thread(
                    lambda: httpx.post(f"{server.base_url}/chat/completions", json=QUESTION)
                )
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                ready = await asyncio.to_thread(lambda: httpx.get(f"{server.url}/ready"))
                assert "The queue is full" in ready.text

        asyncio.run(fill())
        assert_answers(server)


def test_a_process_that_is_stopped_for_30_seconds_goes_on(server: ServerProcess) -> None:
    with running_server(**{**SETTINGS, "LLM_HANG_SECONDS": "10", "LLM_STALL_SECONDS": "5"}) as server:
        request = {**STREAM, "max_tokens": 300}
        with httpx.stream(
            "POST", f"{server.base_url}/chat/completions", json=request, timeout=90
        ) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(30)  # it is what is tested
            server.process.send_signal(signal.SIGCONT)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert_answers(server)


def test_after_a_kill_the_stream_breaks_and_a_new_process_serves_at_once() -> None:
    with running_server(**SETTINGS) as server:
        request = {**STREAM, "max_tokens": 900}
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=request) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.kill()
            with pytest.raises(httpx.RemoteProtocolError):  # and not an end that looks like one
                list(lines)
        port = str(address(server)[1])
    with running_server("--port", port, **SETTINGS) as again:
        assert address(again)[1] == int(port)
        assert_answers(again)


@contextlib.contextmanager
def serving_with(errors: int | IO[bytes], **limits: tuple[int, int]) -> Iterator[ServerProcess]:
    """A server whose standard error goes to `errors`, under limits of `resource`, such as RLIMIT_NOFILE.

    Its exit code may be 120: Python's own way of saying that it could not flush.
    """

    def limit() -> None:
        for name, values in limits.items():
            resource.setrlimit(getattr(resource, name), values)

    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "serve", "--port", "0"],
        env={**clean_environment(), **SETTINGS, "LOG_LEVEL": "debug"},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        preexec_fn=limit,
    )
    server = ServerProcess(process=process)
    reader = threading.Thread(target=server.read_output)
    reader.start()
    try:
        server.wait_until_serving()
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, 120)
    finally:
        process.kill()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    with open("/dev/full", "wb") as full, serving_with(full) as server:
        assert_answers(server)


def test_a_closed_pipe_after_the_log_stops_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe, serving_with(pipe) as server:
        os.close(reading)
        assert_answers(server)
        assert_answers(server)


def test_a_pipe_that_nobody_reads_stops_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb") as pipe, serving_with(pipe) as server:
        with httpx.Client() as client:
            for _ in range(1000):  # more lines than a pipe holds
                client.get(f"{server.url}/health")
        assert_answers(server)


def test_more_connections_than_file_descriptors_are_served_once_others_close() -> None:
    with serving_with(subprocess.DEVNULL, RLIMIT_NOFILE=(64, 64)) as server:

        async def hold() -> None:
            async with connections(server, 100):
                await asyncio.sleep(1)

        asyncio.run(hold())
        assert_answers(server)
