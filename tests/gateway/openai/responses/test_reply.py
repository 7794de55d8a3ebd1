"""The shapes of responses, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict_responses as strict
from tests.gateway.asking import raising
from tests.gateway.openai.chat.test_reply import think_and_call, with_logprobs
from tests.gateway.openai.responses.asking import HELLO, RESPONSES
from tests.serving import ScriptedBackend
from worker.protocol import Accepted, Event, Finished, TextDelta, ToolCallDelta, Usage, WorkerFailed


def test_a_response_has_every_required_key(client: httpx.Client) -> None:
    body = (
        client.post(RESPONSES, json={**HELLO, "metadata": {"a": "b"}, "top_p": 0.5}).raise_for_status().json()
    )
    parsed = strict.response(body)
    assert body["id"].startswith("resp_")
    assert parsed.output_text == "Hello"
    assert (body["status"], body["metadata"], body["top_p"]) == ("completed", {"a": "b"}, 0.5)
    assert body["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_a_stream_tells_of_the_response_its_item_its_part_and_its_text(client: httpx.Client) -> None:
    events, response = strict.stream(client.post(RESPONSES, json={**HELLO, "stream": True}))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert response.output_text == "Hello"
    assert response.usage is not None


def blocks(body: dict[str, Any]) -> list[Any]:
    """Each item's type and what it says."""
    said = []
    for item in body["output"]:
        parts = [*item.get("content", ()), *item.get("summary", ())]
        said.append(
            (item["type"], item["status"], item.get("arguments") or "".join(p["text"] for p in parts))
        )
    return said


CALLED = [
    ("reasoning", "completed", "Hmm."),
    ("message", "completed", "I look."),
    ("function_call", "completed", '{"city": "Paris"}'),
    ("function_call", "completed", "{}"),
]


def test_thoughts_and_calls_are_items(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = think_and_call
    body = client.post(RESPONSES, json=HELLO).json()
    strict.response(body)
    assert blocks(body) == CALLED
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    assert [(call["call_id"], call["name"]) for call in calls] == [
        ("call_1", "get_weather"),
        ("call_2", "get_time"),
    ]


@pytest.mark.parametrize("summary", [None, "auto"])
def test_thoughts_are_streamed_as_text_or_as_the_summary_asked_for(
    client: httpx.Client, backend: ScriptedBackend, summary: str | None
) -> None:
    backend.script = think_and_call
    request = {**HELLO, "stream": True, "reasoning": {"summary": summary}}
    events, _ = strict.stream(client.post(RESPONSES, json=request))
    assert blocks(events[-1]["response"]) == CALLED
    told = {event["type"] for event in events if "reasoning" in event["type"]}
    kind = "reasoning_summary_text" if summary else "reasoning_text"
    assert {f"response.{kind}.delta", f"response.{kind}.done"} <= told
    thought = events[-1]["response"]["output"][0]
    assert bool(thought["summary"]) == bool(summary) != bool(thought.get("content"))


async def cut_off(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Hel"), Finished(0, "length"), Usage(5, 1)]


async def cut_call(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), ToolCallDelta(0, 0, id="call_1", name="f"), ToolCallDelta(0, 0, '{"a')]
    yield [Finished(0, "length"), Usage(5, 1)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [cut_off, cut_call])
def test_what_is_cut_off_is_incomplete(
    client: httpx.Client, backend: ScriptedBackend, script: Any, stream: bool
) -> None:
    backend.script = script
    answer = client.post(RESPONSES, json={**HELLO, "max_output_tokens": 1, "stream": stream})
    body = strict.stream(answer)[0][-1]["response"] if stream else answer.json()
    strict.response(body)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][-1]["status"] == "incomplete"
    assert body["completed_at"] is None


async def say_nothing(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), Finished(0, "stop"), Usage(5, 0)]


async def talk_after_a_call(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), ToolCallDelta(0, 0, "{}", id="call_1", name="f"), TextDelta(0, "Done.")]
    yield [Finished(0, "tool_calls"), Usage(5, 2)]


@pytest.mark.parametrize("script", [say_nothing, talk_after_a_call, think_and_call, with_logprobs])
def test_a_stream_ends_with_what_is_answered_whole(
    client: httpx.Client, backend: ScriptedBackend, script: Any
) -> None:
    backend.script = script
    whole = client.post(RESPONSES, json=HELLO).json()
    streamed = strict.stream(client.post(RESPONSES, json={**HELLO, "stream": True}))[0][-1]["response"]
    assert blocks(streamed) == blocks(whole)
    assert len(whole["output"]) > 0


def test_log_probabilities_are_those_of_the_text(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = with_logprobs
    wanted = {**HELLO, "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    (part,) = client.post(RESPONSES, json=wanted).json()["output"][0]["content"]
    assert backend.requests[-1].sampling.logprobs == 1
    assert [entry["bytes"] for entry in part["logprobs"]] == [[240, 159]] * 2
    events, _ = strict.stream(client.post(RESPONSES, json={**wanted, "stream": True}))
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert delta["logprobs"] == part["logprobs"]


def test_a_failure_in_a_stream_is_a_failed_response_and_an_error(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    backend.script = raising(WorkerFailed("It broke."), after=1)
    events = strict.named_events(client.post(RESPONSES, json={**HELLO, "stream": True}))
    failed, error = events[-2:]
    assert (failed["type"], error["type"]) == ("response.failed", "error")
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert "It broke." in failed["response"]["error"]["message"]
    assert error["error"]["message"] == error["message"] == failed["response"]["error"]["message"]
    assert error["sequence_number"] == failed["sequence_number"] + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_event_has_a_status(
    client: httpx.Client, backend: ScriptedBackend, stream: bool
) -> None:
    backend.script = raising(WorkerFailed("It broke."), after=0)
    answer = client.post(RESPONSES, json={**HELLO, "stream": stream})
    assert answer.status_code == 503
    assert "It broke." in answer.json()["error"]["message"]


async def call_in_a_namespace(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), ToolCallDelta(0, 0, id="call_1", name="home.get_weather"), ToolCallDelta(0, 0, "{}")]
    yield [Finished(0, "tool_calls"), Usage(5, 1)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_in_a_namespace_is_called_by_its_own_name(
    client: httpx.Client, backend: ScriptedBackend, stream: bool
) -> None:
    backend.script = call_in_a_namespace
    function = {"type": "function", "name": "get_weather", "description": "The weather"}
    namespace = {"type": "namespace", "name": "home", "description": "At home.", "tools": [function]}
    request = {**HELLO, "tools": [namespace, function], "stream": stream}
    answer = client.post(RESPONSES, json=request).raise_for_status()
    body = strict.stream(answer)[0][-1]["response"] if stream else answer.json()
    strict.response(body)
    (call,) = body["output"]
    assert (call["namespace"], call["name"]) == ("home", "get_weather")
    offered = [tool["function"] for tool in backend.requests[-1].tools]
    assert [tool["name"] for tool in offered] == ["home.get_weather", "get_weather"]
    assert offered[0]["description"] == "At home.\nThe weather"

    result = {"type": "function_call_output", "call_id": "call_1", "output": "Sun"}
    client.post(RESPONSES, json={**HELLO, "input": [call, result]}).raise_for_status()
    (made,) = backend.requests[-1].messages[0]["tool_calls"]
    assert made["function"]["name"] == "home.get_weather"
