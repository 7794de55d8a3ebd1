"""Every parameter of the API over a scripted backend: honoured, reported as ignored, or refused by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest

from compat_tests import strict
from gateway.openai.chat.request import ChatCompletionRequest
from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving
from worker.protocol import (
    Accepted,
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
WEATHER = {"type": "function", "function": FUNCTION}
TIME = {"type": "function", "function": {"name": "get_time"}}
CUSTOM = {"type": "custom", "custom": {"name": "shell"}}

OPENAI_PARAMETERS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs "
    "max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls "
    "prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention "
    "reasoning_effort response_format safety_identifier seed service_tier stop store stream "
    "stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def client(backend: ScriptedBackend) -> Iterator[httpx.Client]:
    with serving(backend, GatewaySettings()) as url, httpx.Client(base_url=url) as client:
        yield client


def asked(client: httpx.Client, backend: ScriptedBackend, **change: Any) -> ChatRequest:
    client.post(CHAT, json={**HELLO, **change}).raise_for_status()
    request = backend.requests[-1]
    assert isinstance(request, ChatRequest)
    return request


def test_all_37_parameters_of_the_reference_are_known() -> None:
    names = OPENAI_PARAMETERS.split()
    assert len(names) == 37
    assert set(names) <= set(ChatCompletionRequest.model_fields)


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
    ({"store": True}, "store", "nothing is stored"),
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


def test_grammars_of_clients_are_refused(backend: ScriptedBackend) -> None:
    with serving(backend) as url, httpx.Client(base_url=url) as client:
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
    ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when 'stream' is true"),
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


def test_sampling_reaches_the_worker(client: httpx.Client, backend: ScriptedBackend) -> None:
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repeat_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "mirostat_mode": 2,
        "mirostat_tau": 4,
        "mirostat_eta": 0.2,
        "seed": -5,
    }
    more = {
        "stop": ["a", "b"],
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"7": -100},
        "max_tokens": 9,
    }
    sampling = asked(client, backend, **given, **more, max_completion_tokens=8).sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert (sampling.stop, sampling.logprobs, sampling.logit_bias) == (("a", "b"), 2, {7: -100})
    assert sampling.max_tokens == 8
    assert asked(client, backend, logprobs=True).sampling.logprobs == 0
    assert asked(client, backend).sampling.logprobs is None


NAMED = {"type": "function", "function": {"name": "get_time"}}
CHOICES: list[tuple[dict[str, Any], list[dict[str, Any]], str, bool]] = [
    ({}, [WEATHER, TIME], "auto", True),
    ({"tool_choice": "auto", "parallel_tool_calls": False}, [WEATHER, TIME], "auto", False),
    ({"tool_choice": "none"}, [], "auto", True),
    ({"tool_choice": "required"}, [WEATHER, TIME], "required", True),
    ({"tool_choice": NAMED}, [TIME], "required", False),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
        [TIME],
        "auto",
        True,
    ),
]


@pytest.mark.parametrize(("change", "tools", "choice", "parallel"), CHOICES)
def test_tools_and_their_choice_reach_the_worker(
    client: httpx.Client,
    backend: ScriptedBackend,
    change: dict[str, Any],
    tools: list[dict[str, Any]],
    choice: str,
    parallel: bool,
) -> None:
    request = asked(client, backend, tools=[WEATHER, TIME], **change)
    assert list(request.tools) == tools
    assert (request.tool_choice, request.parallel_tool_calls) == (choice, parallel)


def test_formats_and_template_variables_reach_the_worker(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    schema = {**PARAMETERS, "default": None}  # a null that means something
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    assert asked(client, backend, response_format=form).response_format == form
    any_object = {"type": "json_object"}
    assert asked(client, backend, response_format=any_object).response_format == any_object
    assert asked(client, backend, response_format={"type": "text"}).response_format is None
    request = asked(client, backend, chat_template_kwargs={"a": 1}, reasoning_effort="low")
    assert (request.template_kwargs, request.reasoning_effort) == ({"a": 1}, "low")


def test_every_role_reaches_the_worker_in_the_templates_form(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": None},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    assert asked(client, backend, messages=messages).messages == [
        {"role": "system", "content": "Be brief.", "name": "dev"},
        {"role": "user", "content": "One\ntwo"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "f"}]},
        {"role": "tool", "content": "", "name": "f", "tool_call_id": "f"},
        {"role": "assistant", "content": "No."},
    ]


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


async def end_without_reason(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Hel"), Finished(0, "stop"), TextDelta(1, "x")]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_never_just_ends(client: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    backend.script = end_without_reason
    request = {**HELLO, "prompt": "x", "n": 2}
    whole = client.post(path, json=request)
    assert whole.status_code == 503
    assert "before the answer was complete" in strict.error(whole)["message"]
    streamed = client.post(path, json={**request, "stream": True}).text
    assert streamed.rstrip().rpartition("\n")[2].startswith('data: {"error":')
    assert "[DONE]" not in streamed


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
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_text_completions_refuse_by_name(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = client.post(TEXT, json={"model": "test-model", "prompt": "x", **change})
    assert response.status_code == 400
    assert strict.error(response)["param"] == param


def test_a_text_completion_of_no_tokens_is_not_supported(client: httpx.Client) -> None:
    response = client.post(TEXT, json={"model": "test-model", "prompt": "x", "echo": True, "max_tokens": 0})
    envelope = strict.error(response)
    assert (envelope["param"], envelope["code"]) == ("max_tokens", "unsupported_parameter")
    assert "Send 1 or more" in envelope["message"]
