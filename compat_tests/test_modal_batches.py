"""A batch over the workers of a deployment, of which containers die meanwhile: each request is answered once.

`make prove-batches` has it with 10,000 requests.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from compat_tests.deployment import GATEWAY, Deployment, deployed
from worker.models.default import default_model

NUM_REQUESTS = int(os.environ.get("BATCH_REQUESTS", "60"))
SECONDS = 60 + NUM_REQUESTS
MODEL = "SmolLM2-135M-Instruct"
CHATS: Any = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    settings = {"MODEL_NAME": MODEL, "LLM_CTX": "512", "LLM_SLOTS": "2", "MAX_CONTAINERS": "3"}
    with deployed(default_model(), **settings) as deployment:
        yield deployment


def request(number: int, **body: Any) -> str:
    chat = {"messages": [{"role": "user", "content": f"Count from {number}."}], "max_tokens": 4}
    asked = {"model": MODEL, **chat, **body}
    return json.dumps({"custom_id": str(number), "method": "POST", "url": CHATS, "body": asked})


def start(client: openai.OpenAI, lines: list[str]) -> Any:
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")


def when(client: openai.OpenAI, batch_id: str, num_done: int) -> Any:
    """The batch once so many are answered, or it has ended."""
    deadline = time.monotonic() + SECONDS
    while True:
        batch: Any = client.batches.retrieve(batch_id)
        if batch.status in ENDED or batch.request_counts.completed >= num_done:
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)


def kill_one(deployment: Deployment, function: str) -> None:
    for container in deployment.emulator.containers(function):
        if container.ready:
            deployment.emulator.kill(container.task_id)
            return
    raise AssertionError(f"nothing of {function} runs")


@pytest.mark.timeout(SECONDS + 120)
def test_each_request_is_answered_once_whatever_dies_meanwhile(deployment: Deployment) -> None:
    most_workers = 0
    with deployment.server.client() as client:
        batch = start(client, [request(number) for number in range(NUM_REQUESTS)])
        when(client, batch.id, NUM_REQUESTS // 4)
        most_workers = len(deployment.workers())
        kill_one(deployment, "LlamaWorker.*")
        kill_one(deployment, "run_batch")
        kill_one(deployment, GATEWAY)
    with openai.OpenAI(base_url=deployment.server.base_url, api_key="unused", max_retries=5) as client:
        batch = when(client, batch.id, NUM_REQUESTS + 1)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (NUM_REQUESTS, 0)
        rows = [json.loads(text) for text in client.files.content(batch.output_file_id).text.splitlines()]
    assert Counter(row["custom_id"] for row in rows) == Counter(map(str, range(NUM_REQUESTS)))
    assert all(row["response"]["body"]["usage"]["completion_tokens"] for row in rows)
    assert most_workers == 3


def test_a_batch_is_cancelled_where_it_runs(deployment: Deployment) -> None:
    with deployment.server.client() as client:
        batch = start(client, [request(number, max_tokens=400) for number in range(200)])
        deployment.emulator.wait_for(
            lambda workers: any(each.num_inputs for each in workers), "LlamaWorker.*"
        )
        client.batches.cancel(batch.id)
        assert when(client, batch.id, 200).status == "cancelled"
    deployment.emulator.wait_for(
        lambda workers: all(each.num_inputs == 0 for each in workers), "LlamaWorker.*"
    )
