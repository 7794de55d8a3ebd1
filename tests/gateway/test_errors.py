"""Whatever fails is answered by OpenAI's envelope, with a sentence that says what to do."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import CHAT, HELLO, raising
from tests.serving import ScriptedBackend
from worker.protocol import ContextLengthExceeded, Overloaded

GPT = json.dumps({**HELLO, "model": "gpt"}).encode()


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
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"logit_bias": {"word": 1}}, "logit_bias", "token ids"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "1 or more, or -1"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
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
    assert strict.error(response)["param"] == param
    assert says in strict.error(response)["message"]


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
    assert strict.error(response)["code"] == code


def test_a_prompt_that_is_too_long_is_called_as_the_route_has_it(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    backend.script = raising(ContextLengthExceeded(512, 600, "messages"), after=0)
    chat = strict.error(client.post(CHAT, json=HELLO))
    assert chat["message"].startswith(
        "This model's maximum context length is 512 tokens. However, your messages resulted in 600 tokens. "
        "Please reduce the length of the messages. "
    )
    generate = strict.error(client.post("/generate", json={"message": "Hi"}))
    assert "However, your message resulted in 600 tokens." in generate["message"]
    assert (chat["param"], generate["param"]) == ("messages", "message")


def test_overload_says_when_to_come_back(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = raising(Overloaded("The queue is full.", 2.5), after=0)
    headers = client.post(CHAT, json=HELLO).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("3", "2500")
