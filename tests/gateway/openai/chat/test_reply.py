"""The shapes of chat completions, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import CHAT, HELLO, frames
from tests.gateway.openai.chat.asking import FUNCTION, WEATHER
from tests.serving import ScriptedBackend
from worker.protocol import (
    Accepted,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)


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


async def think_and_call(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), ReasoningDelta(0, "Hm"), ReasoningDelta(0, "m.")]
    yield [TextDelta(0, "I look."), ToolCallDelta(0, 0, id="call_1", name="get_weather")]
    yield [ToolCallDelta(0, 0, '{"city": '), ToolCallDelta(0, 0, '"Paris"}')]
    yield [ToolCallDelta(0, 1, id="call_2", name="get_time"), ToolCallDelta(0, 1, "{}")]
    yield [Finished(0, "tool_calls"), Usage(5, 20, reasoning_tokens=4)]


def test_thoughts_and_calls_in_one_answer(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = think_and_call
    message = strict.completion(client.post(CHAT, json=HELLO).json()).choices[0].message
    assert message.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [  # type: ignore[union-attr]
        ("call_1", "get_weather", '{"city": "Paris"}'),
        ("call_2", "get_time", "{}"),
    ]
    assert message.content == "I look."
    assert message.model_extra == {"reasoning_content": "Hmm."}


def test_thoughts_and_calls_in_a_stream(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = think_and_call
    request = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    chunks = strict.stream(client.post(CHAT, json=request), include_usage=True)
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks if chunk.choices]
    assert deltas[1:4] == [{"reasoning_content": "Hm"}, {"reasoning_content": "m."}, {"content": "I look."}]
    begun = {"name": "get_weather", "arguments": ""}
    assert deltas[4:6] == [
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": begun}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_deprecated_functions_are_answered_by_their_own_names(
    client: httpx.Client, backend: ScriptedBackend, stream: bool
) -> None:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        yield [Accepted(5), ToolCallDelta(0, 0, id="call_1", name="get_weather"), ToolCallDelta(0, 0, "{}")]
        yield [Finished(0, "tool_calls"), Usage(5, 20)]

    backend.script = script
    response = client.post(CHAT, json={**HELLO, "functions": [FUNCTION], "stream": stream})
    assert list(backend.requests[-1].tools) == [WEATHER]
    assert not backend.requests[-1].parallel_tool_calls
    if stream:
        deltas = [chunk.choices[0] for chunk in strict.stream(response)]
        calls = [choice.delta.function_call for choice in deltas if choice.delta.function_call]
        assert [(call.name, call.arguments) for call in calls] == [("get_weather", ""), (None, "{}")]
        assert deltas[-1].finish_reason == "function_call"
    else:
        choice = strict.completion(response.json()).choices[0]
        assert choice.message.function_call is not None
        assert choice.message.function_call.name == "get_weather"
        assert choice.finish_reason == "function_call"


async def with_logprobs(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    half = TokenLogprob("�", -0.1, b"\xf0\x9f", (TokenLogprob("a", -3.0, b"a"),))
    yield [Accepted(5), TextDelta(0, "🗼", (half, half))]
    yield [Finished(0, "stop"), Usage(5, 2)]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_carry_bytes(client: httpx.Client, backend: ScriptedBackend, stream: bool) -> None:
    backend.script = with_logprobs
    response = client.post(CHAT, json={**HELLO, "logprobs": True, "top_logprobs": 1, "stream": stream})
    choices: Any
    if stream:
        choices = [chunk.choices[0] for chunk in strict.stream(response)]
    else:
        choices = strict.completion(response.json()).choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert [entry.bytes for entry in entries] == [[0xF0, 0x9F]] * 2
    assert entries[0].top_logprobs[0].token == "a"
