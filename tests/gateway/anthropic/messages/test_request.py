"""How what a message is asked for reaches the worker, and what is refused by name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from compat_tests import strict_messages as strict
from tests.gateway.anthropic.messages.asking import HELLO, HI, MESSAGES, SCHEMA, TIME, WEATHER, asked
from tests.gateway.asking import raising
from tests.serving import ScriptedBackend
from worker.protocol import InvalidRequest

CACHED = {"cache_control": {"type": "ephemeral"}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, **CACHED}


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": arguments}


def result(call_id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def template_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_a_conversation_becomes_the_templates_own(client: httpx.Client, backend: ScriptedBackend) -> None:
    failed = result("c2", [text("No"), text("city")], is_error=True)
    thought = {"type": "thinking", "thinking": "Hm", "signature": "x"}
    messages = [
        {"role": "user", "content": [text("Look"), text("twice.")]},
        {"role": "assistant", "content": [thought, text("I look."), use("c1"), use("c2", city="Zürich")]},
        {"role": "user", "content": [result("c1", "42"), failed]},
        {"role": "user", "content": [text("So?")]},
        {"role": "user", "content": "Well?"},
    ]  # fmt: skip
    assert asked(client, backend, messages=messages, system=[text("Be"), text("brief.")]).messages == [
        {"role": "system", "content": "Be\nbrief."},
        {"role": "user", "content": "Look\ntwice."},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm",
            "tool_calls": [template_call("c1"), template_call("c2", '{"city": "Zürich"}')],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "tool", "content": "Error: No\ncity", "tool_call_id": "c2"},
        {"role": "user", "content": "So?\nWell?"},
    ]


def test_sampling_is_as_asked_and_otherwise_the_models_own(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    sampling = asked(
        client, backend, temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["END", "STOP"]
    ).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert (sampling.stop, sampling.max_tokens) == (("END", "STOP"), 100)
    assert "temperature" in asked(client, backend).sampling.left_to_model


@pytest.mark.parametrize(
    ("choice", "mode", "names", "parallel"),
    [
        (None, "auto", ["get_weather", "get_time"], True),
        ({"type": "auto"}, "auto", ["get_weather", "get_time"], True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", ["get_weather", "get_time"], False),
        ({"type": "any"}, "required", ["get_weather", "get_time"], True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", ["get_weather", "get_time"], False),
        ({"type": "tool", "name": "get_time"}, "required", ["get_time"], False),
        ({"type": "none"}, "auto", [], True),
    ],
)
def test_tools_and_their_choice_are_the_workers(
    client: httpx.Client, backend: ScriptedBackend, choice: Any, mode: str, names: list[str], parallel: bool
) -> None:
    request = asked(client, backend, tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool["function"]["name"] for tool in request.tools] == names
    assert (request.tool_choice, request.parallel_tool_calls) == (mode, parallel)


def test_a_tool_is_described_as_in_a_chat(client: httpx.Client, backend: ScriptedBackend) -> None:
    (tool,) = asked(client, backend, tools=[{**WEATHER, **CACHED, "strict": True}]).tools
    function = {"name": "get_weather", "description": "The weather", "parameters": SCHEMA, "strict": True}
    assert tool == {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("options", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "medium"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"output_config": {"effort": "high"}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "low"}}, "low"),
    ],
)
def test_how_much_to_think_is_told_in_the_workers_words(
    client: httpx.Client, backend: ScriptedBackend, options: dict[str, Any], effort: str | None
) -> None:
    assert asked(client, backend, **options).reasoning_effort == effort


def test_what_the_assistant_has_begun_is_continued(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert asked(client, backend, messages=[HI, {"role": "assistant", "content": "The"}]).continues
    assert not asked(client, backend).continues


def test_what_cannot_be_continued_is_named_by_its_message(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    backend.script = raising(InvalidRequest("No.", "continue_final_message"), after=0)
    refusal = client.post(MESSAGES, json={**HELLO, "messages": [HI, {"role": "assistant", "content": "The"}]})
    assert strict.error(refusal)["message"] == "No."


def test_an_output_format_is_enforced(client: httpx.Client, backend: ScriptedBackend) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    request = asked(client, backend, output_config={"format": form})
    assert request.response_format == {"type": "json_schema", "json_schema": {"schema": SCHEMA}}


def test_hints_are_listed(client: httpx.Client) -> None:
    hints = {
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "tools": [{**WEATHER, **CACHED, "input_examples": []}],
        "frobnicate": 1,
        "temperature": 1,
    }
    response = client.post(MESSAGES, json={**HELLO, **hints})
    assert response.headers["x-ignored-parameters"].split(", ") == [
        "metadata",
        "service_tier",
        "frobnicate",
        "thinking.budget_tokens",
        "context_management",
        "tools.input_examples",
    ]


def said(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}, HI]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": None}, "'max_tokens'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "'messages[0].role'"),
        (said({"type": "text"}), "'messages[0].content[0].text'"),
        (said(text("x"), IMAGE), "'messages[0].content[1]' is not supported: this model takes text only"),
        (said({"type": "server_tool_use"}), "no blocks of type 'server_tool_use', but text, thinking"),
        (said({"no": "type"}), "'messages[0].content[0].type'"),
        (said(use("c1")), "role 'user' has no blocks of type 'tool_use'"),
        (said(result("c1", "42")), "the call 'c1', which nothing before it makes"),
        (
            {"messages": [assistant(use("c1")), *said(result("c1", [IMAGE]))["messages"]]},
            "'messages[1].content[0].content[0]' is not supported",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "no tool 'web_search_20250305'"),
        ({"tools": [{"name": "f"}]}, "'tools[0].input_schema'"),
        ({"tools": [WEATHER, WEATHER]}, "only once"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "'tool_choice.name'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "g"}}, "not among the tools"),
        ({"tool_choice": {"type": "any"}}, "only allowed when 'tools' are given"),
        ({"thinking": {"type": "enabled"}}, "'thinking.budget_tokens'"),
        ({"thinking": {"type": "between_tools"}}, "'thinking.type'"),
        ({"mcp_servers": [{"url": "http://x"}]}, "'mcp_servers' is not supported"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "edits[0]"),
        ({"temperature": 3}, "'temperature'"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    client: httpx.Client, backend: ScriptedBackend, change: dict[str, Any], says: str
) -> None:
    body = {name: value for name, value in {**HELLO, **change}.items() if value is not None}
    response = client.post(MESSAGES, json=body)
    assert response.status_code == 400
    assert strict.error(response)["type"] == "invalid_request_error"
    assert says in strict.error(response)["message"]
    assert backend.requests == []
