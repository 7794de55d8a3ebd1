"""The shapes of messages, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict_messages as strict
from compat_tests.strict_responses import named_events
from gateway.settings import GatewaySettings
from tests.gateway.anthropic.messages.asking import HELLO, MESSAGES
from tests.gateway.asking import never_ending, raising
from tests.gateway.openai.chat.test_reply import think_and_call
from tests.serving import ScriptedBackend, serving
from worker.protocol import (
    Accepted,
    Event,
    Finished,
    FinishReason,
    TextDelta,
    ToolCallDelta,
    Usage,
    WorkerFailed,
)


def test_a_message_has_every_required_key(client: httpx.Client) -> None:
    body = client.post(MESSAGES, json=HELLO).raise_for_status().json()
    strict.message(body)
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [{"type": "text", "text": "Hello", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 2,
            "cache_creation": None,
            "inference_geo": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def test_a_stream_tells_of_the_message_and_of_each_block(client: httpx.Client) -> None:
    events, body = strict.stream(client.post(MESSAGES, json={**HELLO, "stream": True}))
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    started = events[0]["message"]["usage"]
    assert (started["input_tokens"], started["output_tokens"]) == (5, 0)
    assert body["content"][0]["text"] == "Hello"
    assert body["usage"]["cache_read_input_tokens"] == 3


CALLED: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hmm.", "signature": "unsigned"},
    {"type": "text", "text": "I look.", "citations": None},
    {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "get_weather",
        "input": {"city": "Paris"},
        "caller": {"type": "direct"},
    },
    {"type": "tool_use", "id": "toolu_2", "name": "get_time", "input": {}, "caller": {"type": "direct"}},
]


def test_thoughts_and_calls_are_blocks(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = think_and_call
    body = client.post(MESSAGES, json=HELLO).json()
    strict.message(body)
    assert (body["content"], body["stop_reason"]) == (CALLED, "tool_use")
    _, streamed = strict.stream(client.post(MESSAGES, json={**HELLO, "stream": True}))
    assert (streamed["content"], streamed["stop_reason"]) == (CALLED, "tool_use")


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_may_be_left_out(client: httpx.Client, backend: ScriptedBackend, stream: bool) -> None:
    backend.script = think_and_call
    thinking = {"type": "adaptive", "display": "omitted"}
    response = client.post(MESSAGES, json={**HELLO, "stream": stream, "thinking": thinking})
    body = strict.stream(response)[1] if stream else response.json()
    assert body["content"] == [{**CALLED[0], "thinking": ""}, *CALLED[1:]]
    assert "Hmm." not in response.text


def ending(reason: FinishReason, stop: str | None = None, num_tokens: int = 1) -> Any:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        yield [Accepted(5), TextDelta(0, "Hel"), Finished(0, reason, stop), Usage(5, num_tokens)]

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "reason", "stop"),
    [
        (ending("stop"), "end_turn", None),
        (ending("stop", "END"), "stop_sequence", "END"),
        (ending("length", num_tokens=100), "max_tokens", None),
        (ending("length", num_tokens=99), "model_context_window_exceeded", None),
        (ending("content_filter"), "refusal", None),
    ],
)
def test_why_a_message_ended_is_told(
    client: httpx.Client, backend: ScriptedBackend, script: Any, reason: str, stop: str | None, stream: bool
) -> None:
    backend.script = script
    response = client.post(MESSAGES, json={**HELLO, "stream": stream})
    body = strict.stream(response)[1] if stream else response.json()
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, stop)


async def cut_call(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), ToolCallDelta(0, 0, id="call_1", name="f"), ToolCallDelta(0, 0, '{"a": [1, 2')]
    yield [Finished(0, "length"), Usage(5, 100)]


def test_a_call_that_is_cut_off_has_what_was_written(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = cut_call
    body = client.post(MESSAGES, json=HELLO).json()
    strict.message(body)
    assert body["content"][0]["input"] == {"a": [1, 2]}
    assert body["stop_reason"] == "max_tokens"


def test_a_stream_that_fails_ends_with_an_error(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = raising(WorkerFailed("The worker was lost."), after=1)
    response = client.post(MESSAGES, json={**HELLO, "stream": True})
    last = named_events(response)[-1]
    assert last == {
        "type": "error",
        "error": {"type": "api_error", "message": "The worker was lost."},
        "request_id": response.headers["request-id"],
    }


def test_a_silent_stream_is_kept_open_by_pings() -> None:
    settings = GatewaySettings(heartbeat_seconds=0.05)
    with (
        serving(ScriptedBackend(never_ending), settings) as url,
        httpx.stream("POST", f"{url}{MESSAGES}", json={**HELLO, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        assert "event: ping" in lines
        assert next(lines) == 'data: {"type":"ping"}'
