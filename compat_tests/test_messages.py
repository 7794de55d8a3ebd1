"""Anthropic's SDK against the real server on the real model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam
from pydantic import BaseModel, Field

from compat_tests.server import Server

CAPITAL = "What is the capital of France? Answer in one sentence."
ASKED: list[MessageParam] = [{"role": "user", "content": CAPITAL}]
GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}
WEATHER: ToolParam = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    city: str = Field(max_length=20)


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key, max_retries=0) as client:
        yield client


def test_a_stream_says_the_same_as_the_whole_and_as_a_chat(
    claude: anthropic.Anthropic, client: openai.OpenAI, model: str
) -> None:
    whole = claude.messages.create(model=model, messages=ASKED, max_tokens=30, **GREEDY)
    (block,) = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    with claude.messages.stream(model=model, messages=ASKED, max_tokens=30, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == block.text
    assert streamed.stop_reason == whole.stop_reason == "end_turn"
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": CAPITAL}], temperature=0, max_tokens=30
    )
    assert chat.choices[0].message.content == block.text
    assert chat.usage is not None
    for usage in (whole.usage, streamed.usage):
        assert usage.cache_read_input_tokens is not None
        assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, model: str) -> None:
    message = claude.messages.create(
        model=model, messages=ASKED, max_tokens=30, stop_sequences=["Nowhere", "Paris"], **GREEDY
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert claude.messages.create(model=model, messages=ASKED, max_tokens=2).stop_reason == "max_tokens"


def test_what_the_assistant_has_begun_is_continued(claude: anthropic.Anthropic, model: str) -> None:
    begun: list[MessageParam] = [*ASKED, {"role": "assistant", "content": "The capital of France is"}]
    (block,) = claude.messages.create(model=model, messages=begun, max_tokens=8, **GREEDY).content
    assert block.type == "text"
    assert block.text.startswith(" Paris")


def test_a_tool_is_called_and_answered(claude: anthropic.Anthropic, model: str) -> None:
    conversation: list[MessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: dict[str, Any] = {"model": model, "max_tokens": 80, "tools": [WEATHER]}
    with claude.messages.stream(**asked, messages=conversation, tool_choice={"type": "any"}) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"
    (call,) = [block for block in called.content if block.type == "tool_use"]
    City.model_validate(call.input)
    result: ToolResultBlockParam = {"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny."}
    conversation += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    answer = claude.messages.create(**asked, messages=conversation, tool_choice={"type": "none"})
    assert [block.type for block in answer.content] == ["text"]


def test_a_structured_answer_is_parsed(claude: anthropic.Anthropic, model: str) -> None:
    message = claude.messages.parse(
        model=model,
        max_tokens=60,
        messages=[{"role": "user", "content": "Name a capital."}],
        output_format=City,
    )
    assert isinstance(message.parsed_output, City)


def test_tokens_are_counted_as_a_message_uses_them(claude: anthropic.Anthropic, model: str) -> None:
    prompt: dict[str, Any] = {"model": model, "messages": ASKED, "system": "Be brief.", "tools": [WEATHER]}
    counted = claude.messages.count_tokens(**prompt).input_tokens
    usage = claude.messages.create(**prompt, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted > claude.messages.count_tokens(model=model, messages=ASKED).input_tokens


def test_what_fails_raises_the_sdks_exceptions(claude: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="claude", messages=ASKED, max_tokens=1)
    assert unknown.value.type == "not_found_error"
    assert unknown.value.request_id is not None
    with pytest.raises(anthropic.BadRequestError, match="'max_tokens'"):
        claude.messages.create(model=model, messages=ASKED, max_tokens=0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused(
    claude: anthropic.Anthropic, model: str, stream: bool
) -> None:
    long: list[MessageParam] = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: "):
        claude.messages.create(model=model, messages=long, max_tokens=9, stream=stream)
