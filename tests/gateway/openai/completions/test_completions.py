"""Text completions over a scripted backend."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import TEXT
from tests.serving import ScriptedBackend
from worker.protocol import Accepted, CompletionRequest, Event, Finished, TextDelta, TokenLogprob, Usage

PROMPTS: list[tuple[Any, tuple[Any, ...]]] = [
    ("a", ("a",)),
    (["a", "b"], ("a", "b")),
    ([1, 2], ((1, 2),)),
    ([[1], [2, 3]], ((1,), (2, 3))),
    (None, ("<|endoftext|>",)),
]


@pytest.mark.parametrize(("prompt", "prompts"), PROMPTS)
def test_every_kind_of_prompt_is_completed(
    client: httpx.Client, backend: ScriptedBackend, prompt: Any, prompts: tuple[Any, ...]
) -> None:
    body = client.post(TEXT, json={"model": "test-model", "prompt": prompt, "n": 2, "user": "u"})
    parsed = strict.text_completion(body.json())
    assert [choice.text for choice in parsed.choices] == ["Hello"] * 2 * len(prompts)
    request = backend.requests[-1]
    assert isinstance(request, CompletionRequest)
    assert (request.prompts, request.n, request.sampling.max_tokens) == (prompts, 2, 16)
    assert body.headers["x-ignored-parameters"] == "user"


def test_a_text_stream(client: httpx.Client) -> None:
    request = {
        "model": "test-model",
        "prompt": "a",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    frames = strict.data_frames(client.post(TEXT, json=request).text)
    assert [frame["choices"][0]["text"] for frame in frames[:-1]] == ["Hel", "lo", ""]
    assert frames[-2]["choices"][0]["finish_reason"] == "stop"
    assert {frame["object"] for frame in frames} == {"text_completion"}
    assert frames[-1]["usage"]["total_tokens"] == 7


def test_legacy_log_probabilities(client: httpx.Client, backend: ScriptedBackend) -> None:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        more = (TokenLogprob("b", -2.0, b"b"),)
        yield [Accepted(1), TextDelta(0, "ab", (TokenLogprob("ab", -1.0, b"ab", more),))]
        yield [TextDelta(0, "c", (TokenLogprob("c", -0.5, b"c"),)), Finished(0, "stop"), Usage(1, 2)]

    backend.script = script
    body = client.post(TEXT, json={"model": "test-model", "prompt": "x", "logprobs": 1}).json()
    logprobs = strict.text_completion(body).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.model_dump() == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, -0.5],
        "top_logprobs": [{"b": -2.0, "ab": -1.0}, {"c": -0.5}],
        "text_offset": [0, 2],
    }


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
    ],
)
def test_text_completions_refuse_by_name(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = client.post(TEXT, json={"model": "test-model", "prompt": "x", **change})
    assert response.status_code == 400
    assert strict.error(response)["param"] == param


def test_an_echo_with_log_probabilities_may_be_all(client: httpx.Client, backend: ScriptedBackend) -> None:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        first, second = TokenLogprob("a", math.nan, b"a"), TokenLogprob("b", -1.0, b"b")
        yield [Accepted(2), TextDelta(0, "ab", (first, second)), Finished(0, "length"), Usage(2, 0)]

    backend.script = script
    asked = {"model": "test-model", "prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0}
    for stream in (False, True):
        response = client.post(TEXT, json={**asked, "stream": stream})
        body = strict.data_frames(response.text)[0] if stream else response.json()
        assert body["choices"][0]["text"] == "ab"
        assert body["choices"][0]["logprobs"] == {
            "tokens": ["a", "b"],
            "token_logprobs": [None, -1.0],
            "top_logprobs": [None, {"b": -1.0}],
            "text_offset": [0, 1],
        }
    request = backend.requests[-1]
    assert (request.echo, request.sampling.logprobs, request.sampling.max_tokens) == (True, 1, 0)


@pytest.mark.parametrize("more", [{"echo": True}, {"logprobs": 1}, {}])
def test_a_text_completion_of_nothing_is_not_supported(client: httpx.Client, more: dict[str, Any]) -> None:
    response = client.post(TEXT, json={"model": "test-model", "prompt": "x", "max_tokens": 0, **more})
    envelope = strict.error(response)
    assert (envelope["param"], envelope["code"]) == ("max_tokens", "unsupported_parameter")
    assert "Send 1 or more" in envelope["message"]
