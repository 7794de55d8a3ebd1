"""The official SDK's responses against the real server on the real model."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseInputParam, ToolParam
from pydantic import BaseModel, Field

from compat_tests.server import Server

CAPITAL = "What is the capital of France? Answer in one sentence."
WEATHER: ToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    city: str = Field(max_length=20)


def test_a_stream_says_the_same_as_the_whole_and_as_a_chat(client: openai.OpenAI, model: str) -> None:
    request: dict[str, Any] = {"model": model, "input": CAPITAL, "temperature": 0, "max_output_tokens": 30}
    whole = client.responses.create(**request)
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    assert whole.usage is not None
    with client.responses.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        streamed = stream.get_final_response()
    assert text == streamed.output_text == whole.output_text
    assert streamed.usage is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": CAPITAL}], temperature=0, max_tokens=30
    )
    assert chat.choices[0].message.content == whole.output_text
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == whole.usage.input_tokens


def test_an_answer_that_is_cut_off_is_incomplete(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(model=model, input="Count to 20.", max_output_tokens=4)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 4


def test_a_structured_answer_is_parsed(client: openai.OpenAI, model: str) -> None:
    parsed = client.responses.parse(
        model=model, input="Name a capital.", text_format=City, max_output_tokens=60
    ).output_parsed
    assert isinstance(parsed, City)


def test_a_tool_is_called_and_answered(client: openai.OpenAI, model: str) -> None:
    conversation: ResponseInputParam = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = client.responses.create(
        model=model, input=conversation, tools=[WEATHER], tool_choice="required", max_output_tokens=80
    )
    (call,) = [item for item in called.output if item.type == "function_call"]
    City.model_validate_json(call.arguments)
    conversation += [
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."},
    ]
    answer = client.responses.create(
        model=model, input=conversation, tools=[WEATHER], tool_choice="none", max_output_tokens=20
    )
    assert answer.output_text


def test_a_response_is_continued_read_listed_and_deleted(server_process: Server) -> None:
    with server_process.client() as client:
        model = server_process.model()
        asked: dict[str, Any] = {"model": model, "temperature": 0, "max_output_tokens": 30}
        first = client.responses.create(**asked, input=CAPITAL)
        *_, last = client.responses.create(
            **asked, input="What did I ask?", previous_response_id=first.id, stream=True
        )
        assert last.type in ("response.completed", "response.incomplete")
        second = last.response
        conversation: ResponseInputParam = [
            {"role": "user", "content": CAPITAL},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What did I ask?"},
        ]
        assert client.responses.create(**asked, input=conversation).output_text == second.output_text
        assert client.responses.retrieve(second.id).output_text == second.output_text
        items = [item.type for item in client.responses.input_items.list(second.id, limit=1)]
        assert items == ["message"] * 3
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError, match="no longer"):
            client.responses.create(**asked, input="Why?", previous_response_id=second.id)


def test_a_response_says_whether_it_can_be_read_again(client: openai.OpenAI, model: str) -> None:
    """On Modal none can, because each container of the gateway would know its own."""
    response = client.responses.create(model=model, input="Hi", max_output_tokens=1)
    if response.store:  # type: ignore[attr-defined]  # which the types do not have
        assert client.responses.retrieve(response.id).id == response.id
    else:
        with pytest.raises(openai.NotFoundError, match="keeps no responses"):
            client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match="keeps no responses"):
            client.responses.create(model=model, input="Hi", previous_response_id=response.id)


@pytest.mark.parametrize("stream", [False, True])
def test_an_input_longer_than_the_context_is_refused(client: openai.OpenAI, model: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model=model, input="word " * 3000, stream=stream)
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "input"
