"""The official SDK against the real server on the real model."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from compat_tests.server import Server, running_server

CAPITAL: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]


def test_it_answers_a_question(client: openai.OpenAI, model: str) -> None:
    reply = client.chat.completions.create(model=model, messages=CAPITAL, temperature=0, max_tokens=30)
    choice = reply.choices[0]
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens > 3
    assert reply._request_id is not None


def test_a_stream_says_the_same_as_the_plain_answer(client: openai.OpenAI, model: str) -> None:
    request: dict[str, Any] = {"model": model, "messages": CAPITAL, "temperature": 0, "max_tokens": 30}
    plain = client.chat.completions.create(**request)
    text, reasons, usage = "", [], None
    with client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            usage = chunk.usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons.append(choice.finish_reason)
    assert text == plain.choices[0].message.content
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    assert usage is not None
    assert plain.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        plain.usage.prompt_tokens,
        plain.usage.completion_tokens,
    )


def test_the_streaming_helper_assembles_the_message(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=CAPITAL, temperature=0, max_tokens=30
    ) as stream:
        final = stream.get_final_completion()
    assert "Paris" in (final.choices[0].message.content or "")


def test_many_async_clients_are_all_answered(server: Server, model: str) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=server.base_url, api_key=server.api_key, max_retries=0
        ) as client:

            async def ask(number: int) -> str:
                reply = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": f"Repeat the number {number}."}],
                    temperature=0,
                    max_tokens=16,
                )
                return reply.choices[0].message.content or ""

            return await asyncio.gather(*(ask(number) for number in range(100, 112)))

    answers = asyncio.run(ask_all())
    right = [str(number) in answer for number, answer in zip(range(100, 112), answers, strict=True)]
    assert sum(right) >= 10, answers


def test_length_and_stop_end_an_answer(client: openai.OpenAI, model: str) -> None:
    counting: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Count from 1 to 20, separated by commas."}
    ]
    request: dict[str, Any] = {"model": model, "messages": counting, "temperature": 0}
    cut = client.chat.completions.create(**request, max_tokens=4)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 4
    whole = client.chat.completions.create(**request, max_tokens=40).choices[0].message.content or ""
    stop = whole[8:11]
    stopped = client.chat.completions.create(**request, max_tokens=40, stop=stop)
    assert stopped.choices[0].message.content == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def fox_story(client: openai.OpenAI, model: str, **sampling: float) -> str | None:
    """The same story each time, if it is sampled alike."""
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story about a fox."}],
        seed=7,
        max_tokens=24,
        extra_body=sampling,
    )
    return reply.choices[0].message.content


def test_sampling_that_is_left_out_is_what_the_model_recommends(client: openai.OpenAI, model: str) -> None:
    fox_story(client, model)  # from here on the prompt is cached, and computed alike each time
    assert fox_story(client, model) == fox_story(client, model, temperature=0.2, top_p=0.9)
    assert fox_story(client, model) != fox_story(client, model, temperature=1, top_p=1)


def test_sampling_that_is_left_out_is_openais_if_so_set() -> None:
    with (
        running_server(LLM_RECOMMENDED_SAMPLING="false", LLM_CTX="512", LLM_SLOTS="1") as server,
        server.client() as client,
    ):
        model = server.model()
        fox_story(client, model)
        assert fox_story(client, model) == fox_story(client, model, temperature=1, top_p=1)


def test_seeds_repeat_and_their_absence_varies(client: openai.OpenAI, model: str) -> None:
    def tell(seed: int | None) -> str | None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story."}]
        reply = client.chat.completions.create(
            model=model, messages=messages, seed=seed, max_tokens=24, temperature=1
        )
        return reply.choices[0].message.content

    assert tell(7) == tell(7)
    assert len({tell(None) for _ in range(3)}) > 1


def test_n_gives_that_many_choices(client: openai.OpenAI, model: str) -> None:
    reply = client.chat.completions.create(
        model=model, messages=CAPITAL, n=3, max_tokens=8, seed=1, temperature=1, top_p=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1


def test_the_system_prompt_is_the_clients_if_it_sends_one(client: openai.OpenAI, model: str) -> None:
    def prompt_tokens(messages: list[ChatCompletionMessageParam]) -> int:
        reply = client.chat.completions.create(model=model, messages=messages, max_tokens=1)
        assert reply.usage is not None
        return reply.usage.prompt_tokens

    default = prompt_tokens(CAPITAL)
    assert prompt_tokens([{"role": "system", "content": "You are a helpful assistant."}, *CAPITAL]) == default
    longer: ChatCompletionMessageParam = {
        "role": "system",
        "content": "Answer in French, and at length. " * 4,
    }
    assert prompt_tokens([longer, *CAPITAL]) > default


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI, model: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "word " * 3000}], stream=stream
        )
    assert refusal.value.code == "context_length_exceeded"
    assert "maximum context length is 2048 tokens. However, your messages resulted in 30" in str(
        refusal.value
    )


def test_models_are_listed(client: openai.OpenAI, model: str) -> None:
    assert model == "SmolLM2-135M-Instruct"
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
