"""Structured output and tools on the real model, through the official SDK and as raw answers."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import BaseModel, Field

from compat_tests import strict
from compat_tests.server import Server

WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in Celsius?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "married": {"type": "boolean"},
    },
    "required": ["name", "age", "married"],
    "additionalProperties": False,
}


class Animal(BaseModel):
    kind: Literal["cat", "dog", "bird"]
    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=4)


def chat(server: Server, model: str, **request: Any) -> httpx.Response:
    body = {"model": model, "max_tokens": 120, **request}
    return httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=120)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"guided_regex": r"[0-9]{3}-[0-9]{4}"}, r"[0-9]{3}-[0-9]{4}"),
        ({"structured_outputs": {"choice": ["cats", "dogs"]}}, "cats|dogs"),
        ({"json_schema": {"enum": [7, 8]}}, "7|8"),
    ],
)
def test_what_vllm_and_llama_server_have_beside_it_holds_too(
    client: openai.OpenAI, model: str, form: dict[str, Any], pattern: str
) -> None:
    reply = client.chat.completions.create(model=model, messages=ASK, extra_body=form)
    assert re.fullmatch(pattern, reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_answer_is_valid_by_its_schema(server: Server, model: str, stream: bool, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    messages = [{"role": "user", "content": "Invent a person."}]
    response = chat(server, model, messages=messages, response_format=form, stream=stream, seed=seed)
    if stream:
        parts = [chunk.choices[0].delta.content or "" for chunk in strict.stream(response)]
        content = "".join(parts)
        assert len([part for part in parts if part]) > 3
    else:
        content = strict.completion(response.json()).choices[0].message.content or ""
    jsonschema.validate(json.loads(content), PERSON)


def test_an_answer_cut_by_length_says_so(server: Server, model: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    messages = [{"role": "user", "content": "Invent a person."}]
    response = chat(server, model, messages=messages, response_format=form, max_tokens=4)
    assert strict.completion(response.json()).choices[0].finish_reason == "length"


def test_json_mode_gives_an_object(client: openai.OpenAI, model: str) -> None:
    """Small models do not always come to an end, but what they write is never anything else."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Ada's name as JSON."}],
        response_format={"type": "json_object"},
        max_tokens=60,
        n=4,
        seed=1,
        temperature=1,
        top_p=1,
    )
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}
    for choice in answer.choices:
        assert (choice.message.content or "").startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content or ""), dict)
    assert any(choice.finish_reason == "stop" for choice in answer.choices)


def test_the_sdk_parses_into_a_model(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Describe a cat."}],
        response_format=Animal,
        max_tokens=100,
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)


def test_the_sdk_streams_into_a_model(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model,
        messages=[{"role": "user", "content": "Describe a dog."}],
        response_format=Animal,
        max_tokens=100,
    ) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Animal)
    assert {"content.delta", "content.done"} <= kinds


def test_a_schema_that_cannot_be_enforced_is_a_400_that_says_which_part(
    client: openai.OpenAI, model: str
) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}},
    }
    with pytest.raises(openai.BadRequestError, match="'/properties/a', 'uniqueItems'") as refused:
        client.chat.completions.create(
            model=model,
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "get_weather"}}],
    ids=["required", "named"],
)
def test_a_forced_tool_is_called_with_valid_arguments(
    server: Server, model: str, choice: Any, stream: bool
) -> None:
    request = {"messages": ASK, "tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    response = chat(server, model, **request, stream=stream)
    if stream:
        chunks = strict.stream(response)
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        arguments = "".join(call.function.arguments or "" for call in calls if call.function)
        reason: str | None = chunks[-1].choices[0].finish_reason
    else:
        answer = strict.completion(response.json()).choices[0]
        assert answer.message.tool_calls is not None
        (call,) = answer.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "get_weather"
        arguments, reason = call.function.arguments, answer.finish_reason
    assert reason == "tool_calls"
    jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cut", "reason", "arguments"),
    [({"stop": "city"}, "stop", '{"'), ({"max_tokens": 5}, "length", "")],
    ids=["stop", "length"],
)
def test_a_forced_call_that_is_cut_off_is_not_told_as_a_call(
    server: Server, model: str, cut: dict[str, Any], reason: str, arguments: str, stream: bool
) -> None:
    request = {"messages": ASK, "tools": [WEATHER], "tool_choice": "required", **cut}
    response = chat(server, model, **request, stream=stream)
    if stream:
        chunks = strict.stream(response)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        content = "".join(delta.content or "" for delta in deltas)
        begun = [
            call.function.arguments for delta in deltas for call in delta.tool_calls or [] if call.function
        ]
        told: str | None = chunks[-1].choices[0].finish_reason
    else:
        choice = strict.completion(response.json()).choices[0]
        content, told = choice.message.content or "", choice.finish_reason
        begun = [call.function.arguments for call in choice.message.tool_calls or []]  # type: ignore[union-attr]
    assert ("".join(text or "" for text in begun), told, content) == (arguments, reason, "")


def test_the_sdks_streaming_helper_assembles_a_call(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model,
        messages=ASK,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["get_weather"]
    assert json.loads(done[0].arguments)["unit"] in ("C", "F")


def test_calls_and_results_in_the_history_reach_the_model(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(
        model=model, messages=ASK, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    message = first.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "17 degrees " * 20}
    history: Any = [*ASK, message, result]
    answer = client.chat.completions.create(model=model, messages=history, tools=[WEATHER], max_tokens=5)
    assert first.usage
    assert answer.usage
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens + 60


def test_tools_may_be_left_alone(client: openai.OpenAI, model: str) -> None:
    for choice in ("none", "auto"):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Say hello."}],
            tools=[WEATHER],
            tool_choice=choice,
            max_tokens=20,
            temperature=0,
        )
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].message.content


def test_deprecated_functions_still_work(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=ASK,
        functions=[WEATHER["function"]],
        function_call={"name": "get_weather"},
        max_tokens=100,
    )
    assert answer.choices[0].finish_reason == "function_call"
    assert answer.choices[0].message.function_call is not None
    assert "city" in json.loads(answer.choices[0].message.function_call.arguments)
