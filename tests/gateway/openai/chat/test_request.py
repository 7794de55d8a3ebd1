"""Every parameter of a chat: honoured, reported as ignored, or refused by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from compat_tests import strict
from gateway.openai.chat.request import ChatCompletionRequest
from tests.gateway.asking import CHAT, HELLO, TEXT
from tests.gateway.openai.chat.asking import CUSTOM, FUNCTION, TIME, WEATHER, asked
from tests.serving import ScriptedBackend
from worker.protocol import Accepted, Event, Finished, TextDelta, Usage

OPENAI_PARAMETERS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs "
    "max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls "
    "prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention "
    "reasoning_effort response_format safety_identifier seed service_tier stop store stream "
    "stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)


def test_all_37_parameters_of_the_reference_are_known() -> None:
    names = OPENAI_PARAMETERS.split()
    assert len(names) == 37
    assert set(names) <= set(ChatCompletionRequest.model_fields)


def test_template_variables_and_effort_reach_the_worker(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    request = asked(client, backend, chat_template_kwargs={"a": 1}, reasoning_effort="low")
    assert (request.template_kwargs, request.reasoning_effort) == ({"a": 1}, "low")
    assert asked(client, backend, reasoning_effort="").reasoning_effort is None


IGNORED: list[tuple[dict[str, Any], str]] = [
    ({"user": "u"}, "user"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"safety_identifier": "s"}, "safety_identifier"),
    ({"prompt_cache_key": "k"}, "prompt_cache_key"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
    ({"prompt_cache_options": {"ttl": "5m"}}, "prompt_cache_options"),
    ({"service_tier": "auto"}, "service_tier"),
    ({"verbosity": "low"}, "verbosity"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"parallel_tool_calls": True}, "parallel_tool_calls"),
    ({"store": True}, "store"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"zebra": 1, "apple": 2}, "apple, zebra"),
    ({"größe\n": 1}, "gr\\xf6\\xdfe\\n"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
]


@pytest.mark.parametrize(("change", "header"), IGNORED)
def test_hints_are_accepted_and_listed(client: httpx.Client, change: dict[str, Any], header: str) -> None:
    response = client.post(CHAT, json={**HELLO, **change}).raise_for_status()
    assert response.headers["x-ignored-parameters"] == header


def test_of_too_many_ignored_parameters_whole_names_are_listed(client: httpx.Client) -> None:
    names = [f"parameter_{number:03}" for number in range(300)]
    header = client.post(CHAT, json={**HELLO, **dict.fromkeys(names)}).headers["x-ignored-parameters"]
    *listed, last = header.split(", ")
    assert last == "..."
    assert listed == names[: len(listed)]
    assert 1900 < len(header) <= 2000 + len("...")


@pytest.mark.parametrize("change", [{}, {"store": False, "modalities": ["text"], "user": None, "tools": []}])
def test_what_is_honoured_is_not_listed(client: httpx.Client, change: dict[str, Any]) -> None:
    assert (
        "x-ignored-parameters" not in client.post(CHAT, json={**HELLO, **change}).raise_for_status().headers
    )


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_worker_ignores_is_listed_too(
    client: httpx.Client, backend: ScriptedBackend, stream: bool
) -> None:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        yield [Accepted(1, ("reasoning_effort",))]
        yield [TextDelta(0, "x"), Finished(0, "stop"), Usage(1, 1)]

    backend.script = script
    response = client.post(CHAT, json={**HELLO, "reasoning_effort": "low", "user": "u", "stream": stream})
    assert response.headers["x-ignored-parameters"] == "user, reasoning_effort"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "text only"),
    ({"modalities": ["text", "audio"]}, "modalities", "text only"),
    ({"web_search_options": {}}, "web_search_options", "no access to the web"),
    ({"moderation": {"model": "m"}}, "moderation", "does not moderate"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
        "'image_url'",
    ),
    ({"tools": [TIME, CUSTOM]}, "tools[1]", "of type 'function'"),
    ({"tools": [TIME], "tool_choice": CUSTOM}, "tool_choice", "of type 'function'"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", **CUSTOM}]}]},
        "messages[0].tool_calls[0]",
        "of type 'function'",
    ),
]


@pytest.mark.parametrize(("change", "param", "says"), REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(
    client: httpx.Client, change: dict[str, Any], param: str, says: str
) -> None:
    response = client.post(CHAT, json={**HELLO, **change})
    assert response.status_code == 400
    envelope = strict.error(response)
    assert (envelope["param"], envelope["code"]) == (param, "unsupported_parameter")
    assert says in envelope["message"]


def test_grammars_of_clients_are_refused(client: httpx.Client, backend: ScriptedBackend) -> None:
    for path in (CHAT, TEXT):
        response = client.post(path, json={**HELLO, "prompt": "x", "grammar": 'root ::= "a"'})
        assert response.status_code == 400
        envelope = strict.error(response)
        assert (envelope["param"], envelope["code"]) == ("grammar", "unsupported_parameter")
        assert "'response_format'" in envelope["message"]
    assert not backend.requests


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"top_logprobs": 3}, "top_logprobs", "'logprobs' is true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"tools": [WEATHER, WEATHER]}, "tools", "only once"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
    ({"tools": ["get_time"]}, "tools[0]", "should be a JSON object"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "Missing"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}]},
        "messages[0].tool_calls[0].id",
        "Missing",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
        "should be a JSON object",
    ),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
    ({"tool_choice": "required"}, "tool_choice", "only allowed when 'tools'"),
    (
        {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice",
        "names 'x', which is not among the tools: get_time",
    ),
    (
        {
            "tools": [TIME],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
        },
        "tool_choice.allowed_tools.tools",
        "at least 1 item",
    ),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1 item"),
    ({"functions": [FUNCTION], "tools": [TIME]}, "functions", "deprecated"),
    ({"function_call": {"name": "x"}}, "function_call", "only allowed when 'functions'"),
    ({"function_call": {}}, "function_call.name", "Missing"),
    ({"function_call": "required"}, "function_call", "'none' or 'auto'"),
    (
        {"response_format": {"type": "xml"}},
        "response_format.type",
        "one of 'text', 'json_object', 'json_schema'.",
    ),
    ({"response_format": {}}, "response_format.type", "Missing"),
    ({"response_format": "json"}, "response_format", "should be a JSON object"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
    ({"metadata": {"a": 1}}, "metadata.a", "string"),
    ({"verbosity": "chatty"}, "verbosity", "'low', 'medium' or 'high'"),
    ({"service_tier": 1}, "service_tier", ""),
    ({"seed": 2**63}, "seed", ""),
    ({"reasoning_effort": "huge"}, "reasoning_effort", ""),
]


@pytest.mark.parametrize(("change", "param", "says"), INVALID)
def test_wrong_values_are_refused_with_what_was_expected(
    client: httpx.Client, change: dict[str, Any], param: str, says: str
) -> None:
    response = client.post(CHAT, json={**HELLO, **change})
    assert response.status_code == 400
    envelope = strict.error(response)
    assert envelope["param"] == (param or None)
    assert says in envelope["message"]


def test_the_last_message_is_continued_where_that_is_asked_for(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    asked = {**HELLO, "messages": [*HELLO["messages"], {"role": "assistant", "content": "The"}]}
    for more, continues in (
        ({}, False),
        ({"add_generation_prompt": True}, False),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
    ):
        client.post(CHAT, json={**asked, **more}).raise_for_status()
        assert backend.requests[-1].continues is continues
    for more in (
        {"add_generation_prompt": False},
        {"continue_final_message": True, "add_generation_prompt": True},
    ):
        refusal = client.post(CHAT, json={**asked, **more})
        assert (refusal.status_code, strict.error(refusal)["param"]) == (400, "add_generation_prompt")
