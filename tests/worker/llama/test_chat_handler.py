"""`create_chat_completion` as a library: all that a chat needs, from one call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from worker.llama.batched import BatchedLlama
from worker.models.default import default_model
from worker.protocol import ContextLengthExceeded, InvalidRequest

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def llama() -> Iterator[BatchedLlama]:
    llama = BatchedLlama(str(default_model()), n_ctx=512, num_slots=4)
    yield llama
    llama.check_integrity()
    llama.close()


def ask(llama: BatchedLlama, **options: Any) -> Any:
    return llama.create_chat_completion(ASK, **{"temperature": 0, "max_tokens": 40, **options})


def test_a_required_tool_is_called(llama: BatchedLlama) -> None:
    choice = ask(llama, tools=[WEATHER], tool_choice="required")["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}


def test_a_streamed_call_is_introduced_once(llama: BatchedLlama) -> None:
    chunks = list(ask(llama, tools=[WEATHER], tool_choice=WEATHER, stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["function"].get("name") for call in calls if "id" in call] == ["get_weather"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)).keys() == {"city"}
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_format_is_enforced(llama: BatchedLlama) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    content = ask(llama, response_format=form)["choices"][0]["message"]["content"]
    assert json.loads(content).keys() == {"city"}


def test_choices_share_a_prompt_and_differ(llama: BatchedLlama) -> None:
    answer = ask(llama, n=3, temperature=1.0, seed=1, max_tokens=16)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] <= 48
    again = ask(llama, n=3, temperature=1.0, seed=1, max_tokens=16)
    assert [choice["message"]["content"] for choice in again["choices"]] == texts


def test_a_whole_answer_equals_a_streamed_one(llama: BatchedLlama) -> None:
    whole = ask(llama, logprobs=True, top_logprobs=1)["choices"][0]
    chunks = [chunk["choices"][0] for chunk in ask(llama, logprobs=True, top_logprobs=1, stream=True)]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == whole["message"]["content"]
    tokens = [entry for chunk in chunks for entry in (chunk["logprobs"] or {"content": []})["content"]]
    assert [t["token"] for t in tokens] == [t["token"] for t in whole["logprobs"]["content"]]


def test_what_cannot_be_done_is_refused(llama: BatchedLlama) -> None:
    with pytest.raises(ContextLengthExceeded) as too_long:
        llama.create_chat_completion([{"role": "user", "content": "word " * 600}])
    assert too_long.value.param == "messages"
    with pytest.raises(InvalidRequest, match="'functions' are deprecated"):
        ask(llama, functions=[{"name": "f"}])
    with pytest.raises(InvalidRequest, match="names 'nothing'"):
        ask(llama, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "nothing"}})
    with pytest.raises(InvalidRequest, match="no 'type' that is known"):
        ask(llama, response_format={"type": "xml"})
    with pytest.raises(TypeError, match="temprature"):
        ask(llama, temprature=1)


@pytest.mark.parametrize("num_tools", [3, 800])
def test_a_refusal_for_length_says_what_the_tools_take(llama: BatchedLlama, num_tools: int) -> None:
    described = {"name": "f", "description": "Look up the weather of a city in the archives. " * 20}
    tools = [{"type": "function", "function": {**described, "name": f"f{i}"}} for i in range(num_tools)]
    with pytest.raises(
        ContextLengthExceeded, match="Please reduce the length of the messages or the tools"
    ) as refusal:
        ask(llama, tools=tools)
    alone = ask(llama, max_tokens=1)["usage"]["prompt_tokens"]
    error = refusal.value
    assert error.without_tools == alone
    in_tools = error.num_tokens - alone
    least = "at least " if num_tools == 800 else ""
    assert (
        f"in {least}{error.num_tokens} tokens ({alone} in the messages, {least}{in_tools} in the tools)"
        in str(error)
    )


def test_messages_that_are_too_long_by_themselves_are_said_to_be(llama: BatchedLlama) -> None:
    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(
        ContextLengthExceeded, match=r"resulted in 6\d\d tokens\. Please reduce the length of the messages\."
    ):
        llama.create_chat_completion(long)
