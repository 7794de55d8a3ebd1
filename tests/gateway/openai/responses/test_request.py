"""How what a response is asked for reaches the worker, and what is refused by name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.openai.responses.asking import HELLO, PARAMETERS, RESPONSES, TIME, WEATHER, asked
from tests.serving import ScriptedBackend
from worker.protocol import InvalidRequest


def call(call_id: str, arguments: Any = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}


def template_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def output(call_id: str | None, text: Any = "42") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def test_what_the_assistant_does_at_one_time_is_one_message(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    text = {"type": "output_text", "text": "I look.", "annotations": []}
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]},
        call("c1"),
        call("c2", {"city": "Zürich"}),
        output("c1"),
        output(None, [{"type": "input_text", "text": "43"}]),
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "So"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "Never."},
    ]
    assert asked(client, backend, input=items, instructions="Help.").messages == [
        {"role": "system", "content": "Help."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm",
            "tool_calls": [template_call("c1"), template_call("c2", '{"city": "Zürich"}')],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "tool", "content": "43", "tool_call_id": "c2"},
        {"role": "assistant", "content": "No.", "reasoning_content": "So"},
        {"role": "assistant", "content": "Never."},
    ]


def test_a_text_is_a_users_message(client: httpx.Client, backend: ScriptedBackend) -> None:
    assert asked(client, backend).messages == [{"role": "user", "content": "Hi"}]


def test_tools_reach_the_worker_as_chats_have_them(client: httpx.Client, backend: ScriptedBackend) -> None:
    request = asked(client, backend, tools=[WEATHER, TIME], parallel_tool_calls=False)
    function = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
    assert request.tools == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "get_time", "strict": True}},
    ]
    assert (request.tool_choice, request.parallel_tool_calls) == ("auto", False)


def test_functions_in_namespaces_are_bounded_like_others(client: httpx.Client) -> None:
    functions = [{**TIME, "name": f"f{i}"} for i in range(65)]
    namespaces = [{"type": "namespace", "name": name, "tools": functions} for name in ("a", "b")]
    answer = client.post(RESPONSES, json={**HELLO, "tools": namespaces})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "tools"
    assert "130 functions. Offer at most 128" in error["message"]


ALLOWED = {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_time"}]}


@pytest.mark.parametrize(
    ("choice", "names", "expected"),
    [
        ("none", [], "auto"),
        ("auto", ["get_weather", "get_time"], "auto"),
        ("required", ["get_weather", "get_time"], "required"),
        ({"type": "function", "name": "get_time"}, ["get_time"], "required"),
        ({**ALLOWED, "mode": "auto"}, ["get_time"], "auto"),
        ({**ALLOWED, "mode": "required"}, ["get_time"], "required"),
    ],
)
def test_every_tool_choice(
    client: httpx.Client, backend: ScriptedBackend, choice: Any, names: list[str], expected: str
) -> None:
    request = asked(client, backend, tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool["function"]["name"] for tool in request.tools] == names
    assert request.tool_choice == expected
    body = client.post(RESPONSES, json={**HELLO, "tools": [WEATHER, TIME], "tool_choice": choice}).json()
    assert body["tool_choice"] == choice


SCHEMA = {"type": "json_schema", "name": "city", "schema": PARAMETERS, "strict": True}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": {"format": {"type": "text"}}}, None),
        ({"text": {"format": {"type": "json_object"}}}, {"type": "json_object"}),
        (
            {"text": {"format": SCHEMA}},
            {"type": "json_schema", "json_schema": {"name": "city", "schema": PARAMETERS, "strict": True}},
        ),
        ({"guided_choice": ["yes", "no"]}, {"type": "choice", "choice": ["yes", "no"]}),
    ],
)
def test_the_format_of_the_text(
    client: httpx.Client, backend: ScriptedBackend, change: dict[str, Any], expected: Any
) -> None:
    assert asked(client, backend, **change).response_format == expected


def test_sampling_reaches_the_worker(client: httpx.Client, backend: ScriptedBackend) -> None:
    request = asked(
        client,
        backend,
        max_output_tokens=7,
        temperature=0.5,
        stop="x",
        seed=3,
        top_k=4,
        reasoning={"effort": "low"},
        chat_template_kwargs={"a": 1},
    )
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.stop, sampling.seed) == (7, 0.5, ("x",), 3)
    assert (sampling.top_k, request.reasoning_effort, request.template_kwargs) == (4, "low", {"a": 1})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"messages": []}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1]"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0]"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{**output("c"), "output": [{"type": "input_file"}]}]}, "input[0].call_id"),
        ({"input": [call("c"), output("c", [{"type": "input_file"}])]}, "input[1].output[0]"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: httpx.Client, change: dict[str, Any], param: str
) -> None:
    response = client.post(RESPONSES, json={**HELLO, **change})
    assert response.status_code == 400
    assert strict.error(response)["param"] == param


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input": None}, "input", "invalid_value"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role", "missing_required_parameter"),
        (
            {"input": [{"type": "function_call", "name": "f"}]},
            "input[0].call_id",
            "missing_required_parameter",
        ),
        ({"input": [output("c")]}, "input[0].call_id", "invalid_value"),
        ({"input": [output(None)]}, "input[0].call_id", "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", None),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name", None),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
            "invalid_value",
        ),
    ],
)
def test_what_is_wrong_is_named(
    client: httpx.Client, change: dict[str, Any], param: str, code: str | None
) -> None:
    response = client.post(RESPONSES, json={**HELLO, **change})
    assert response.status_code == 400
    envelope = strict.error(response)
    assert envelope["param"] == param
    assert code in (None, envelope["code"])


def test_what_has_no_effect_is_listed(client: httpx.Client) -> None:
    hints = {
        "service_tier": "auto",
        "safety_identifier": "me",
        "prompt_cache_key": "k",
        "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "text": {"verbosity": "low"},
        "reasoning": {"context": "auto"},
        "parallel_tool_calls": True,
        "client_metadata": {},
        "background": False,
        "truncation": "disabled",
        "n": 1,
    }
    response = client.post(RESPONSES, json={**HELLO, **hints}).raise_for_status()
    assert set(response.headers["x-ignored-parameters"].split(", ")) == {
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "max_tool_calls",
        "include.reasoning.encrypted_content",
        "text.verbosity",
        "reasoning.context",
        "parallel_tool_calls",
        "client_metadata",
    }


@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("messages", "input"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools", "tools"),
        (None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_workers_refusals_name_the_apis_parameters(
    client: httpx.Client, backend: ScriptedBackend, param: str | None, name: str | None, stream: bool
) -> None:
    async def refuse(backend: ScriptedBackend, request: Any) -> Any:
        raise InvalidRequest("No.", param)
        yield

    backend.script = refuse
    response = client.post(RESPONSES, json={**HELLO, "stream": stream})
    assert response.status_code == 400
    assert strict.error(response)["param"] == name


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    response = client.post(RESPONSES, json={**HELLO, "model": "missing"})
    assert response.status_code == 404
    assert strict.error(response)["code"] == "model_not_found"
