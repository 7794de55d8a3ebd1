"""Answers held to something, on the real model: valid by an independent judge, and in few steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from worker.llama.batched import BatchedLlama
from worker.models.default import default_model

AIRPORT = {"enum": ["CDG", "FRA", "LHR", "JFK", "NRT"]}
FLIGHT = {
    "type": "object",
    "properties": {
        "passenger_name": {"type": "string", "maxLength": 24},
        "departure_airport": AIRPORT,
        "arrival_airport": AIRPORT,
        "travel_class": {"enum": ["economy", "business", "first"]},
        "number_of_bags": {"type": "integer", "minimum": 0, "maximum": 5},
        "refundable": {"type": "boolean"},
    },
    "required": ["passenger_name", "departure_airport", "arrival_airport", "travel_class", "number_of_bags"],
    "additionalProperties": False,
}
BOOK = {"type": "function", "function": {"name": "book_flight", "parameters": FLIGHT, "strict": True}}
ASK = "Book a business flight for Ada Lovelace from Paris (CDG) to London (LHR), two bags."


@pytest.fixture(scope="module")
def llama() -> Iterator[BatchedLlama]:
    llama = BatchedLlama(str(default_model()), n_ctx=512, num_slots=4)
    yield llama
    llama.check_integrity()
    llama.close()


def ask(llama: BatchedLlama, question: str = ASK, **options: Any) -> Any:
    messages = [{"role": "user", "content": question}]
    return llama.create_chat_completion(messages, **{"temperature": 0, "max_tokens": 150, **options})


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def test_a_forced_call_takes_few_steps(llama: BatchedLlama) -> None:
    before = llama.stats()
    answer = ask(llama, tools=[BOOK], tool_choice="required", parallel_tool_calls=False)
    after = llama.stats()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), FLIGHT)
    num_tokens = answer["usage"]["completion_tokens"]
    assert num_tokens >= 70
    assert after.num_output_tokens_total - before.num_output_tokens_total == num_tokens
    assert after.num_steps_total - before.num_steps_total <= 25
    assert after.num_forced_tokens_total - before.num_forced_tokens_total > num_tokens // 2


def test_what_is_forced_is_what_would_have_been_sampled(llama: BatchedLlama) -> None:
    """Log probabilities have every token sampled."""
    for seed in range(3):
        options: Any = {"response_format": json_schema(FLIGHT), "seed": seed, "temperature": 0.5}
        forced = ask(llama, **options)["choices"][0]["message"]["content"]
        before = llama.stats()
        sampled = ask(llama, **options, logprobs=True)["choices"][0]
        assert llama.stats().num_forced_tokens_total == before.num_forced_tokens_total
        assert "".join(t["token"] for t in sampled["logprobs"]["content"]) == sampled["message"]["content"]
        jsonschema.validate(json.loads(forced), FLIGHT)
        jsonschema.validate(json.loads(sampled["message"]["content"]), FLIGHT)
    greedy = ask(llama, response_format=json_schema(FLIGHT))["choices"][0]["message"]["content"]
    sampled = ask(llama, response_format=json_schema(FLIGHT), logprobs=True)["choices"][0]
    assert greedy == sampled["message"]["content"]


def test_many_at_once_are_all_valid(llama: BatchedLlama) -> None:
    schemas: list[Any] = [
        FLIGHT,
        {"type": "array", "items": AIRPORT, "maxItems": 4},
        {"enum": [1, "two", None]},
    ]

    def one(number: int) -> None:
        schema = schemas[number % 3]
        answer = ask(llama, response_format=json_schema(schema), temperature=1.0, seed=number, n=2)
        for choice in answer["choices"]:
            assert choice["finish_reason"] == "stop"
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(18)))


def test_an_answer_that_leaves_no_choice_needs_no_model(llama: BatchedLlama) -> None:
    before = llama.stats().num_steps_total
    answer = ask(llama, response_format=json_schema({"const": {"answer": 42}}))
    assert answer["choices"][0]["message"]["content"] == '{"answer": 42}'
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 4
    assert llama.stats().num_steps_total == before


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_expressions_and_choices(llama: BatchedLlama, temperature: float) -> None:
    for pattern in (r"[0-9]{3}-[0-9]{4}", r"(red|green) \w{2,8}!"):
        form: dict[str, Any] = {"type": "regex", "regex": pattern}
        content = ask(llama, response_format=form, temperature=temperature)["choices"][0]["message"][
            "content"
        ]
        assert re.fullmatch(pattern, content, re.ASCII)
    form = {"type": "choice", "choice": ["yes", "no", "yes and no", "<|im_end|>"]}
    content = ask(llama, response_format=form, temperature=temperature)["choices"][0]["message"]["content"]
    assert content in form["choice"]


def test_a_bias_brings_no_control_token_into_a_string(llama: BatchedLlama) -> None:
    schema = {"type": "string", "minLength": 12, "maxLength": 12}
    answer = ask(llama, response_format=json_schema(schema), logit_bias={"1": 50}, max_tokens=40)
    jsonschema.validate(json.loads(answer["choices"][0]["message"]["content"]), schema)


@pytest.mark.parametrize("max_tokens", [1, 3, 20])
def test_a_limit_holds_among_forced_tokens(llama: BatchedLlama, max_tokens: int) -> None:
    answer = ask(llama, response_format=json_schema(FLIGHT), max_tokens=max_tokens)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == max_tokens
