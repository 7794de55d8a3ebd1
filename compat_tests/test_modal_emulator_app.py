"""app.py with a real model in the emulator, through the openai SDK: both functions, and what lies between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from compat_tests.modal_emulator import ContainerInfo, ModalEmulator

APP = "link-cloud-llamacpp"
WORKER = "LlamaWorker.*"
MODEL = "model_q4_0"
SETTINGS = {"LLM_CTX": "2048", "LLM_SLOTS": "2", "MAX_CONTAINERS": "2", "SCALEDOWN_WINDOW": "60"}
STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Write a very long story."}]


@pytest.fixture(scope="module")
def emulator(default_model_file: Path) -> Iterator[ModalEmulator]:
    with ModalEmulator() as emulator:
        emulator.secret("llama-gateway", {"API_KEYS": "the-key"})
        model = emulator.volume_path("gguf-models") / "models" / f"{MODEL}.gguf"
        model.parent.mkdir()
        shutil.copy(default_model_file, model)
        emulator.deploy("app.py", env=SETTINGS)
        yield emulator


@pytest.fixture(scope="module")
def client(emulator: ModalEmulator) -> Iterator[openai.OpenAI]:
    url = f"{emulator.url(APP, 'gateway')}/v1"
    with openai.OpenAI(base_url=url, api_key="the-key", max_retries=0, timeout=90) as client:
        yield client


def ask(client: openai.OpenAI, text: str, max_tokens: int = 16) -> str:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=max_tokens, temperature=0
    )
    return answer.choices[0].message.content or ""


def is_idle(containers: list[ContainerInfo]) -> bool:
    return all(each.num_inputs == 0 for each in containers)


def test_the_models_on_the_volume_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_stream_has_the_text_of_the_plain_answer(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours."}]
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=16, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text
    assert text == ask(client, "Name three colours.")


def test_a_client_that_leaves_frees_its_slot_and_keeps_the_container(
    emulator: ModalEmulator, client: openai.OpenAI
) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=1900, temperature=0, logit_bias={"2": -100}, stream=True
    ) as stream:
        next(iter(stream))
        [busy] = [each for each in emulator.containers(WORKER) if each.num_inputs]
    # 1900 tokens would take longer than this by far.
    emulator.wait_for(is_idle, WORKER, timeout=5)
    assert busy.task_id in {each.task_id for each in emulator.containers(WORKER)}


def test_more_requests_than_slots_start_another_container(
    emulator: ModalEmulator, client: openai.OpenAI
) -> None:
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda number: ask(client, f"Say {number}.", 64), range(5)))
    assert all(answers)
    assert len(emulator.containers(WORKER)) == 2


def test_an_answer_whose_worker_is_lost_ends_with_an_error(
    emulator: ModalEmulator, client: openai.OpenAI
) -> None:
    """It is not silently continued by another generation, and the next request is served."""
    with client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=1900, temperature=0, logit_bias={"2": -100}, stream=True
    ) as stream:
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
        for container in emulator.containers(WORKER):
            emulator.kill(container.task_id)
        with pytest.raises(openai.APIError, match="worker was lost"):
            list(chunks)
    assert ask(client, "Say hello.")


def test_a_redeploy_finishes_the_streams_that_run(emulator: ModalEmulator, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=300, temperature=0, logit_bias={"2": -100}, stream=True
    ) as stream:
        chunks = iter(stream)
        next(chunks)
        emulator.deploy("app.py", env=SETTINGS)
        *_, last = [chunk for chunk in chunks if chunk.choices]
    assert last.choices[0].finish_reason == "length"
    assert ask(client, "Say hello.")
    emulator.wait_for(lambda found: all(each.version == 2 for each in found))
