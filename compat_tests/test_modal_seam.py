"""Between gateway container and worker container: cancellation, scale-out, lost workers, cold starts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from compat_tests.deployment import Deployment, deployed
from compat_tests.server import NEVER_ENDS
from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from worker.models.default import default_model

MODEL = "SmolLM2-135M-Instruct"
SLOTS = 2
STORY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a very long story."}],
    "logit_bias": NEVER_ENDS,
}
SHORT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    settings = {"MODEL_NAME": MODEL, "LLM_CTX": "4096", "LLM_SLOTS": str(SLOTS), "MAX_CONTAINERS": "2"}
    with deployed(default_model(), **settings) as deployment:
        yield deployment


@pytest.fixture
def chat(deployment: Deployment) -> str:
    return f"{deployment.server.base_url}/chat/completions"


def idle(containers: list[Any]) -> bool:
    return all(container.num_inputs == 0 for container in containers)


def read_until_text(lines: Iterator[str]) -> Iterator[str]:
    """The same lines, after the next that carries text. Letting go of them closes the stream."""
    for line in lines:
        if '"content":"' in line and '"content":""' not in line:
            return lines
    raise AssertionError("the stream ended without text")


def test_what_needs_no_worker_wakes_none(deployment: Deployment, chat: str) -> None:
    url = deployment.server.url
    assert httpx.get(f"{url}/health", timeout=60).is_success
    assert httpx.get(f"{url}/ready", params={"deep": 1}).is_success
    assert httpx.get(f"{url}/metrics").is_success
    assert httpx.get(f"{url}/v1/models").is_success
    assert httpx.post(chat, json={**SHORT, "temperature": 9}).status_code == 400
    assert httpx.post(chat, json={**SHORT, "model": "other"}).status_code == 404
    assert deployment.workers() == []


def test_a_cold_start_is_bridged_by_an_open_stream_with_heartbeats() -> None:
    settings = {"MODEL_NAME": MODEL, "FIRST_EVENT_SECONDS": "0.1", "HEARTBEAT_SECONDS": "0.1"}
    with deployed(default_model(), LLM_CTX="512", LLM_SLOTS="1", **settings) as deployment:
        httpx.get(f"{deployment.server.url}/health", timeout=60).raise_for_status()
        url = f"{deployment.server.base_url}/chat/completions"
        with httpx.stream("POST", url, json={**SHORT, "stream": True}, timeout=60) as response:
            assert response.status_code == 200
            lines = [line for line in response.iter_lines() if line]
        assert '"role":"assistant"' in lines[0]
        assert lines[1] == ": keep-alive"
        assert lines[-1] == "data: [DONE]"


def test_who_does_not_fit_into_a_workers_memory_gets_another_worker() -> None:
    """Two slots were asked for, one fits, as the file's header tells: the first story goes on beside it."""
    settings = {"MODEL_NAME": MODEL, "LLM_CTX": "8192", "LLM_SLOTS": "2", "MEM_MB": "880"}
    with deployed(default_model(), **settings, MAX_CONTAINERS="2") as deployment:
        url = f"{deployment.server.base_url}/chat/completions"
        with httpx.stream("POST", url, json={**STORY, "stream": True}, timeout=60) as first:
            story = read_until_text(first.iter_lines())
            httpx.post(url, json=SHORT, timeout=60).raise_for_status()
            assert [worker.num_inputs for worker in deployment.workers()] == [1, 0]
            read_until_text(story)
        log = deployment.emulator.log()
        assert "holds 1 sequences of 8192 tokens beside the model, not the LLM_SLOTS=2 asked for" in log


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_workers_slot(deployment: Deployment, chat: str, stream: bool) -> None:
    """In far less than the minute that the rest of the story would take; its sibling goes on."""
    with httpx.stream("POST", chat, json={**STORY, "stream": True}, timeout=60) as sibling:
        sibling_lines = read_until_text(sibling.iter_lines())
        if stream:
            with httpx.stream("POST", chat, json={**STORY, "stream": True}, timeout=60) as response:
                read_until_text(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(chat, json=STORY, timeout=1)
        deployment.emulator.wait_for(
            lambda workers: sum(each.num_inputs for each in workers) == 1, "LlamaWorker.*", timeout=5
        )
        read_until_text(sibling_lines)
    deployment.emulator.wait_for(idle, "LlamaWorker.*", timeout=5)
    assert "Traceback" not in deployment.emulator.log()


def test_full_workers_bring_another_and_everyone_is_answered(deployment: Deployment, chat: str) -> None:
    def ask(number: int) -> int:
        message = [{"role": "user", "content": f"Count from {number}."}]
        body = {**SHORT, "messages": message, "max_tokens": 8}
        return httpx.post(chat, json=body, timeout=120).status_code

    with ThreadPoolExecutor(40) as threads:
        answers = threads.map(ask, range(100))
        workers = deployment.emulator.wait_for(
            lambda workers: len([each for each in workers if each.ready]) == 2, "LlamaWorker.*", timeout=60
        )
        assert max(each.num_inputs for each in workers) <= SLOTS
        assert set(answers) == {200}


def test_a_request_that_no_worker_has_taken_yet_is_cancelled_too(deployment: Deployment, chat: str) -> None:
    """It may start when its turn comes, but it ends at once instead of telling its story to nobody."""
    with ThreadPoolExecutor(2 * SLOTS) as threads:
        leave = threading.Event()

        def hold() -> None:
            with httpx.stream("POST", chat, json={**STORY, "stream": True}, timeout=60) as response:
                story = read_until_text(response.iter_lines())
                leave.wait(60)
                read_until_text(story)

        holders = [threads.submit(hold) for _ in range(2 * SLOTS)]
        deployment.emulator.wait_for(
            lambda workers: sum(each.num_inputs for each in workers) == 2 * SLOTS, "LlamaWorker.*", timeout=60
        )
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(chat, json=STORY, timeout=1)
        leave.set()
        for holder in holders:
            holder.result()
    httpx.post(chat, json=SHORT, timeout=60).raise_for_status()
    deployment.emulator.wait_for(idle, "LlamaWorker.*", timeout=5)


def test_the_gateway_shows_what_workers_say_along_with_their_answers(
    deployment: Deployment, chat: str
) -> None:
    httpx.post(chat, json=SHORT, timeout=60).raise_for_status()
    figures = httpx.get(f"{deployment.server.url}/metrics").text
    generated = [line for line in figures.splitlines() if line.startswith("llamacpp:tokens_predicted_total{")]
    assert generated
    assert all(float(line.rpartition(" ")[2]) > 0 for line in generated)
    assert {f'worker="{worker.task_id}"' in "".join(generated) for worker in deployment.workers()} == {True}
    assert "gen_ai_server_queue_duration_seconds_bucket" in figures
    ready = httpx.get(f"{deployment.server.url}/ready", params={"deep": 1}, timeout=60)
    assert ready.json() == {"status": "ready"}


def test_a_worker_that_dies_ends_its_streams_with_an_error(deployment: Deployment, chat: str) -> None:
    with httpx.stream("POST", chat, json={**STORY, "stream": True}, timeout=120) as response:
        lines = read_until_text(response.iter_lines())
        for worker in deployment.workers():
            deployment.emulator.kill(worker.task_id)
        last = [line for line in lines if line.startswith("data: ")][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "worker was lost" in error["message"]
    httpx.post(chat, json=SHORT, timeout=60).raise_for_status()


def test_a_new_worker_knows_the_prefix_that_another_kept_on_the_volume(
    deployment: Deployment, chat: str
) -> None:
    def ask(question: str) -> int:
        system = {"role": "system", "content": "You know these words: " + "apple pear plum " * 120}
        body = {**SHORT, "messages": [system, {"role": "user", "content": question}]}
        reply = httpx.post(chat, json=body, timeout=120).raise_for_status().json()
        cached: int = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached

    for question in ("Who?", "What?", "Where?", "Name one."):
        ask(question)
    folder = deployment.emulator.volume_path("gguf-models") / "prefixes"
    deadline = time.monotonic() + 10
    while not list(folder.glob("*.prefix")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in deployment.workers():
        deployment.emulator.kill(worker.task_id)
    assert ask("Why?") > 256


def test_a_plain_request_survives_its_workers_death(deployment: Deployment, chat: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(httpx.post, chat, json={**STORY, "max_tokens": 300}, timeout=120)
        workers = deployment.emulator.wait_for(
            lambda workers: any(each.num_inputs for each in workers), "LlamaWorker.*", timeout=30
        )
        for worker in workers:
            deployment.emulator.kill(worker.task_id)
        body = answer.result().raise_for_status().json()
    assert body["usage"]["completion_tokens"] == 300
    assert body["choices"][0]["finish_reason"] == "length"


def test_errors_of_the_worker_keep_their_class(deployment: Deployment) -> None:
    with deployment.server.client() as client, pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 5000}], stream=True
        )
    assert refusal.value.code == "context_length_exceeded"


def test_an_answer_over_the_time_limit_ends_and_its_worker_goes_on() -> None:
    settings = {"MODEL_NAME": MODEL, "LLM_CTX": "4096", "LLM_SLOTS": "1", "REQUEST_TIMEOUT": "2"}
    with deployed(default_model(), **settings) as deployment:
        url = f"{deployment.server.base_url}/chat/completions"
        response = httpx.post(url, json=STORY, timeout=60)
        assert response.status_code == 503
        assert "longer than 2 seconds" in response.json()["error"]["message"]
        [worker] = deployment.workers()
        httpx.post(url, json=SHORT, timeout=60).raise_for_status()
        assert [each.task_id for each in deployment.workers()] == [worker.task_id]


def test_a_missing_model_is_told_with_the_command_that_puts_it_there() -> None:
    with deployed(None, VOLUME_NAME="other", MODEL_PATH="/models/mine/model_q4_0.gguf") as deployment:
        url = f"{deployment.server.base_url}/chat/completions"
        body = {**SHORT, "model": "model_q4_0"}
        started = time.monotonic()
        response = httpx.post(url, json=body, timeout=60)
        assert response.status_code == 503
        message = response.json()["error"]["message"]
        assert "`modal volume put other FILE.gguf mine/model_q4_0.gguf`" in message
        assert "`VOLUME_NAME=other modal run app.py::pull_model" in message
        assert "gguf-models" not in message
        assert time.monotonic() - started < 50


def test_models_on_the_volume_are_served_by_name_and_each_by_workers_of_its_own_size(tmp_path: Path) -> None:
    table = tmp_path / "sizes.toml"
    table.write_text("[second]\nllm_ctx = 256\nmemory = 2048\n")
    settings = {"LLM_CTX": "512", "LLM_SLOTS": "1", "MODELS_FILE": str(table)}
    with deployed(default_model(), **settings) as deployment:
        folder = deployment.emulator.volume_path("gguf-models")
        (folder / "second.gguf").hardlink_to(default_model())
        write_tiny_embedding_model("bert", folder, "vectors")
        with deployment.server.client() as client:
            assert {model.id for model in client.models.list()} == {"model_q4_0", "second", "vectors"}
            check_embeddings(client)
            for name in ("model_q4_0", "second"):
                reply = client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
                )
                assert reply.model == name
            assert {model.id: model.max_model_len for model in client.models.list()} == {  # type: ignore[attr-defined]
                "model_q4_0": 512,
                "second": 256,
                "vectors": 256,
            }
        assert len(deployment.workers()) == 3
        assert sorted(worker.memory_mb for worker in deployment.workers()) == [2048, 16384, 16384]


def check_embeddings(client: openai.OpenAI) -> None:
    """Of a model of its own on the Volume, for as many inputs as there may be."""
    texts = ["ab cd", *["ef g"] * 2047]
    reply = client.embeddings.create(model="vectors", input=texts)
    assert len(reply.data) == 2048
    [alone] = client.embeddings.create(model="vectors", input="ab cd").data
    assert alone.embedding == pytest.approx(reply.data[0].embedding, abs=1e-3)
    with pytest.raises(openai.BadRequestError, match=r"your input\[1\] resulted in 302 tokens"):
        client.embeddings.create(model="vectors", input=["ab", "a " * 300])
    with pytest.raises(openai.BadRequestError, match="'model_q4_0' writes text"):
        client.embeddings.create(model="model_q4_0", input="ab")
