"""The HTTP contract over a scripted backend: shapes, errors, keys, limits, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, say_hello, serving
from worker.protocol import (
    Accepted,
    ChatRequest,
    ContextLengthExceeded,
    Event,
    Overloaded,
    TextDelta,
    WorkerError,
    WorkerFailed,
)

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}

NO_GRACE = GatewaySettings(shutdown_grace_seconds=0)

GPT = json.dumps({**HELLO, "model": "gpt"}).encode()


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def client(backend: ScriptedBackend) -> Iterator[httpx.Client]:
    with serving(backend) as url, httpx.Client(base_url=url) as client:
        yield client


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"] in body["error"]["message"]
    envelope: dict[str, Any] = body["error"]
    return envelope


def frames(response: httpx.Response) -> list[Any]:
    """The data of each event; every event is one `data:` line and one empty line."""
    events = response.text.split("\n\n")
    assert events.pop() == ""
    data = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    return [json.loads(text) if text != "[DONE]" else text for text in data]


def test_a_completion_has_every_required_key(client: httpx.Client) -> None:
    body = client.post(CHAT, json=HELLO).raise_for_status().json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stream_is_role_then_text_then_reason_then_done(client: httpx.Client) -> None:
    response = client.post(CHAT, json={**HELLO, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = frames(response)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_is_streamed_when_asked_for(client: httpx.Client) -> None:
    request = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, _done = frames(client.post(CHAT, json=request))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 7
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"messages": []}, "messages", "at least 1 item, not 0"),
        ({"messages": ["Hi"]}, "messages[0]", "should be a JSON object"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "Missing"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "one of 'system',"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", ""),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"logit_bias": {"word": 1}}, "logit_bias", "token ids"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"store": True}, "store", "not supported"),
        ({"modalities": ["audio"]}, "modalities", "not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "text only",
        ),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(
    client: httpx.Client, change: dict[str, Any], param: str, says: str
) -> None:
    response = client.post(CHAT, json={**HELLO, **change})
    assert response.status_code == 400
    assert error(response)["param"] == param
    assert says in error(response)["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing", None, 404, "unknown_url"),
        ("GET", CHAT, None, 405, "method_not_allowed"),
        ("POST", CHAT, b"{broken", 400, "invalid_json"),
        ("POST", CHAT, b"[]", 400, "invalid_json"),
        ("POST", CHAT, b'{"model": "test-model"}', 400, "missing_required_parameter"),
        ("POST", "/generate", b"{}", 400, "missing_required_parameter"),
        ("GET", "/v1/models/unknown", None, 404, "model_not_found"),
        ("POST", CHAT, GPT, 404, "model_not_found"),
        ("POST", CHAT, b"x" * (5 << 20), 413, "request_too_large"),
    ],
)  # fmt: skip
def test_every_failure_is_an_envelope(
    client: httpx.Client, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.request(method, path, content=body, headers=headers)
    assert response.status_code == status
    assert error(response)["code"] == code


def chat_body(**change: Any) -> bytes:
    return json.dumps({**HELLO, **change}).encode()


def text_body(prompt: Any) -> bytes:
    return json.dumps({"model": "test-model", "prompt": prompt}).encode()


def saying(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (CHAT, b"{broken", "double quotes at line 1, column 2"),
        (CHAT, b'{"model": "caf\xe9"}', "not UTF-8"),
        (CHAT, chat_body(temperature=float("nan")), "NaN is not a number"),
        (CHAT, chat_body(temperature=float("-inf")), "-Infinity is not a number"),
        (CHAT, b'{"seed": ' + b"1" * 5000 + b"}", "number that is too large"),
        (CHAT, b'{"metadata": 1e999}', "number that is too large"),
        (CHAT, b"[" * 100_000, "more than 100 levels deep"),
        (CHAT, b'{"a":' * 100 + b"[]" + b"}" * 100, "more than 100 levels deep"),
        (CHAT, chat_body(messages=saying("\ud800")), "unpaired surrogate"),
        (CHAT, chat_body(messages=saying("\udc00\ud800"), stream=True), "unpaired surrogate"),
        (CHAT, chat_body(model="\udfff"), "unpaired surrogate"),
        (CHAT, chat_body(metadata={"\ud83d": ""}), "unpaired surrogate"),
        (TEXT, text_body("\ud800"), "unpaired surrogate"),
        (TEXT, text_body(["a", "\ud800"]), "unpaired surrogate"),
        ("/generate", b'{"message": "\\ud800"}', "unpaired surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bodies_that_are_no_json_are_told_what_is_wrong(
    client: httpx.Client, path: str, body: bytes, says: str
) -> None:
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert (error(response)["code"], error(response)["param"]) == ("invalid_json", None)
    assert says in error(response)["message"]


def test_escaped_pairs_a_byte_order_mark_and_a_hundred_levels_are_fine(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    deep: Any = []
    for _ in range(97):
        deep = [deep]
    body = b"\xef\xbb\xbf" + chat_body(messages=saying("🗼 \\ud800"), chat_template_kwargs={"x": deep})
    assert b"\\ud83d\\uddfc" in body
    client.post(CHAT, content=body, headers={"Content-Type": "application/json"}).raise_for_status()
    assert backend.requests[0].messages == saying("🗼 \\ud800")
    assert backend.requests[0].template_kwargs == {"x": deep}


def test_a_body_without_declared_length_is_limited_too(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield b"x" * 65536

    response = client.post(CHAT, content=endless(), headers={"Content-Type": "application/json"})
    assert error(response)["code"] == "request_too_large"


def raising(failure: Exception, *, after: int) -> Any:
    async def script(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        if after:
            yield [Accepted(5), TextDelta(0, "Once")]
        raise failure

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ContextLengthExceeded(512, 600), 400, "context_length_exceeded"),
        (Overloaded("The queue is full.", 2.5), 429, "rate_limit_exceeded"),
        (WorkerFailed("The engine has stopped."), 503, "worker_failed"),
        (RuntimeError("a secret of the inside"), 500, "internal_error"),
    ],
)
def test_what_fails_before_the_first_token_has_a_status(
    client: httpx.Client, backend: ScriptedBackend, stream: bool, failure: Exception, status: int, code: str
) -> None:
    backend.script = raising(failure, after=0)
    response = client.post(CHAT, json={**HELLO, "stream": stream})
    assert response.status_code == status
    assert error(response)["code"] == code
    assert "secret" not in response.text


def test_a_prompt_that_is_too_long_is_called_as_the_route_has_it(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    backend.script = raising(ContextLengthExceeded(512, 600, "messages"), after=0)
    chat = error(client.post(CHAT, json=HELLO))
    assert chat["message"].startswith(
        "This model's maximum context length is 512 tokens. However, your messages resulted in 600 tokens. "
        "Please reduce the length of the messages. "
    )
    generate = error(client.post("/generate", json={"message": "Hi"}))
    assert "However, your message resulted in 600 tokens." in generate["message"]
    assert (chat["param"], generate["param"]) == ("messages", "message")


def test_overload_says_when_to_come_back(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = raising(Overloaded("The queue is full.", 2.5), after=0)
    headers = client.post(CHAT, json=HELLO).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("3", "2500")


@pytest.mark.parametrize("failure", [WorkerFailed("The engine has stopped."), RuntimeError("a secret")])
def test_what_fails_after_the_first_token_is_the_streams_last_event(
    client: httpx.Client, backend: ScriptedBackend, failure: Exception
) -> None:
    backend.script = raising(failure, after=1)
    response = client.post(CHAT, json={**HELLO, "stream": True})
    assert response.status_code == 200
    last = frames(response)[-1]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["type"] == "server_error"
    assert "secret" not in response.text


async def never_ending(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Once")]
    await asyncio.Event().wait()


async def never_accepting(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    await asyncio.Event().wait()
    yield []


def stopped(stopping: asyncio.Event, accepting: bool) -> Any:
    """The server is told to stop while the answer is under way."""

    async def script(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        if accepting:
            yield [Accepted(5), TextDelta(0, "Once")]
        stopping.set()
        await asyncio.Event().wait()

    return script


@pytest.mark.parametrize("script", [never_ending, never_accepting])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(
    client: httpx.Client, backend: ScriptedBackend, script: Any, stream: bool
) -> None:
    backend.script = script
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json={**HELLO, "stream": stream}, timeout=0.3)
    assert backend.closed.acquire(timeout=5)


@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), ("/generate", {"message": "Hi"})])
def test_a_stopping_server_answers_what_it_cannot_finish(
    path: str, body: dict[str, Any], accepting: bool
) -> None:
    stopping = asyncio.Event()
    with (
        serving(ScriptedBackend(stopped(stopping, accepting)), NO_GRACE, stopping) as url,
        httpx.Client(base_url=url) as client,
    ):
        response = client.post(path, json=body)
        assert response.status_code == 503
        assert error(response)["code"] == "worker_failed"
        assert "shutting down" in error(response)["message"]


@pytest.mark.parametrize("accepting", [False, True])
def test_a_stopping_server_tells_streams_too_what_it_cannot_finish(accepting: bool) -> None:
    """By the status as long as the stream is not open, else by its last event."""
    stopping = asyncio.Event()
    with serving(ScriptedBackend(stopped(stopping, accepting)), NO_GRACE, stopping) as url:
        response = httpx.post(url + CHAT, json={**HELLO, "stream": True})
    assert response.status_code == (200 if accepting else 503)
    envelope = frames(response)[-1] if accepting else response.json()
    assert "shutting down" in envelope["error"]["message"]


def test_a_stopping_server_lets_answers_finish_in_the_time_of_grace() -> None:
    stopping = asyncio.Event()

    async def finishing(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        stopping.set()
        async for batch in say_hello(backend, request):
            await asyncio.sleep(0)
            yield batch

    with serving(ScriptedBackend(finishing), GatewaySettings(), stopping) as url:
        assert httpx.post(url + CHAT, json=HELLO).is_success


def test_silence_is_bridged_by_heartbeats() -> None:
    """Also where the worker is slow to accept: the stream opens, and errors become events."""
    backend = ScriptedBackend(never_accepting)
    settings = GatewaySettings(heartbeat_seconds=0.05, first_event_seconds=0.05)
    with (
        serving(backend, settings) as url,
        httpx.stream("POST", url + CHAT, json={**HELLO, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        assert '"role":"assistant"' in next(lines)
        assert [next(lines) for _ in range(3)] == ["", ": keep-alive", ""]
    assert backend.closed.acquire(timeout=5)


def test_keys_open_everything_but_only_if_right() -> None:
    settings = GatewaySettings(api_keys=SecretStr("first, second"))
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        for header in (None, "Bearer wrong", "Bearer", "Basic first", "Bearer first, second"):
            headers = {"Authorization": header} if header else {}
            response = client.post(CHAT, content=b"{broken", headers=headers)
            assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
        for key in ("first", "second"):
            assert client.post(CHAT, json=HELLO, headers={"Authorization": f"Bearer {key}"}).is_success
        assert client.get("/health").is_success
        assert client.get("/v1/models").status_code == 401
        assert client.get("/openapi.json").is_success


@pytest.mark.parametrize(
    ("key", "failure", "status"),
    [
        ("wrong", None, 401),
        ("right", WorkerFailed("The engine has stopped."), 503),
        ("right", RuntimeError("a secret"), 500),
    ],
)
def test_a_browser_is_shown_every_error(key: str, failure: Exception | None, status: int) -> None:
    settings = GatewaySettings(api_keys=SecretStr("right"), cors_origins="https://chat.example")
    script = raising(failure, after=0) if failure else say_hello
    headers = {"Authorization": f"Bearer {key}", "Origin": "https://chat.example"}
    with serving(ScriptedBackend(script), settings) as url:
        response = httpx.post(url + CHAT, json=HELLO, headers=headers)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert error(response)["message"]


def test_a_browser_is_answered_by_where_its_page_is_from() -> None:
    settings = GatewaySettings(cors_origins="https://mine.example")
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        mine = client.options(CHAT, headers={"Origin": "https://mine.example", **asked})
        assert (mine.status_code, mine.headers["access-control-allow-origin"]) == (
            200,
            "https://mine.example",
        )
        foreign = client.options(CHAT, headers={"Origin": "https://other.example", **asked})
        assert (foreign.status_code, error(foreign)["code"]) == (400, "cors_refused")
        assert "CORS origin. Pages from the origins in CORS_ORIGINS" in error(foreign)["message"]
        assert "access-control-allow-origin" not in foreign.headers
        assert foreign.headers["vary"] == mine.headers["vary"]


def test_health_tells_of_a_dead_engine(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    backend.health = WorkerFailed("The engine has stopped.")
    response = client.get("/health")
    assert response.status_code == 503
    assert "engine has stopped" in error(response)["message"]


def test_generate_keeps_its_shape(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert client.post("/generate", json={"message": "Hi"}).json() == {"response": "Hello"}
    assert backend.requests[0].messages == [{"role": "user", "content": "Hi"}]


def test_parameters_reach_the_worker(client: httpx.Client, backend: ScriptedBackend) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = {
        "model": "test-model",
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],
        "temperature": 0,
        "top_p": None,
        "top_k": 5,
        "seed": 7,
        "stop": "END",
        "max_tokens": 9,
        "max_completion_tokens": 3,
        "logit_bias": {"15": -100},
        "n": 2,
    }
    client.post(CHAT, json=request).raise_for_status()
    sent = backend.requests[0]
    assert sent.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\nb"}]
    assert (sent.sampling.temperature, sent.sampling.top_p, sent.sampling.top_k) == (0, 1, 5)
    assert (sent.sampling.seed, sent.sampling.stop, sent.sampling.max_tokens) == (7, ("END",), 3)
    assert (sent.sampling.logit_bias, sent.n) == ({15: -100}, 2)


def test_models_are_listed_and_found(client: httpx.Client) -> None:
    listing = client.get("/v1/models").json()
    model = {"id": "test-model", "object": "model", "created": 1700000000, "owned_by": "llama-gateway"}
    assert listing == {"object": "list", "data": [model]}
    assert client.get("/v1/models/test-model").json() == model


def test_worker_errors_survive_pickling() -> None:
    import pickle

    failures: list[WorkerError] = [
        ContextLengthExceeded(512, 600, "messages"),
        Overloaded("full", 2),
        WorkerFailed("dead"),
    ]
    for failure in failures:
        copy = pickle.loads(pickle.dumps(failure))
        assert (type(copy), str(copy), copy.__dict__) == (type(failure), str(failure), failure.__dict__)
