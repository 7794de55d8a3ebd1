"""POST /v1/embeddings: what goes to the worker, and what is made of its vectors."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.gateway.asking import CHAT, HELLO, TEXT
from tests.serving import ScriptedBackend
from worker.protocol import (
    Accepted,
    ContextLengthExceeded,
    Embedded,
    EmbeddingRequest,
    Event,
    ModelInfo,
    Usage,
    WorkerFailed,
)

EMBEDDINGS = "/v1/embeddings"
MODEL = ModelInfo("vectors", 1700000000, 512, "embedding")


async def embed(backend: ScriptedBackend, request: EmbeddingRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(7)]
    numbers = [float(number) for number in range(3 * len(request.inputs))]
    yield [Embedded(struct.pack(f"<{len(numbers)}f", *numbers), 3), Usage(7, 0)]


@pytest.fixture
def backend(backend: ScriptedBackend) -> ScriptedBackend:
    backend.script = embed
    backend.served.append(MODEL)
    return backend


def ask(client: httpx.Client, input: Any, **fields: Any) -> httpx.Response:
    return client.post(EMBEDDINGS, json={"model": "vectors", "input": input, **fields})


def test_vectors_come_in_order_with_the_tokens_counted(client: httpx.Client) -> None:
    assert ask(client, ["a", "b"]).json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.0, 1.0, 2.0]},
            {"object": "embedding", "index": 1, "embedding": [3.0, 4.0, 5.0]},
        ],
        "model": "vectors",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_base64_is_float32_little_endian(client: httpx.Client) -> None:
    [first, second] = ask(client, ["a", "b"], encoding_format="base64").json()["data"]
    assert struct.unpack("<3f", base64.b64decode(first["embedding"])) == (0, 1, 2)
    assert struct.unpack("<3f", base64.b64decode(second["embedding"])) == (3, 4, 5)


@pytest.mark.parametrize(
    ("input", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a"] * 2048, ("a",) * 2048),
    ],
    ids=["text", "texts", "tokens", "lists", "as many as there may be"],
)
def test_every_form_of_input_reaches_the_worker(
    client: httpx.Client, backend: ScriptedBackend, input: Any, inputs: tuple[Any, ...]
) -> None:
    reply = ask(client, input, dimensions=2).json()
    assert [request.inputs for request in backend.requests] == [inputs]
    assert backend.requests[0].dimensions == 2
    assert len(reply["data"]) == len(inputs)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["a", ""]}, "input[1]", "at least 1 character"),
        ({"input": [[1], []]}, "input[1]", "at least 1 item"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 items"),
        ({"input": [1, -1]}, "input[1]", "greater than or equal to 0"),
        ({"input": ["a", 1]}, "input[1]", "valid string"),
        ({"input": None}, "input", "valid string"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    client: httpx.Client, backend: ScriptedBackend, fields: dict[str, Any], param: str, says: str
) -> None:
    response = client.post(EMBEDDINGS, json={"model": "vectors", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert backend.requests == []


def test_a_missing_input_is_told(client: httpx.Client) -> None:
    error = client.post(EMBEDDINGS, json={"model": "vectors"}).json()["error"]
    assert (error["param"], error["code"]) == ("input", "missing_required_parameter")


def test_what_has_no_effect_is_listed(client: httpx.Client) -> None:
    response = ask(client, "a", user="someone", truncate="END")
    assert response.headers["x-ignored-parameters"] == "user, truncate"


def test_a_model_is_asked_for_what_it_does(client: httpx.Client, backend: ScriptedBackend) -> None:
    wrong = [
        client.post(EMBEDDINGS, json={"model": "test-model", "input": "a"}),
        client.post(CHAT, json=HELLO | {"model": "vectors"}),
        client.post(TEXT, json={"model": "vectors", "prompt": "a"}),
    ]
    assert [(response.status_code, response.json()["error"]["param"]) for response in wrong] == [
        (400, "model")
    ] * 3
    assert "'test-model' writes text and makes no embeddings" in wrong[0].json()["error"]["message"]
    assert "'vectors' makes embeddings, with POST /v1/embeddings" in wrong[1].json()["error"]["message"]
    assert backend.requests == []


def test_both_kinds_are_listed_with_what_they_can(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["capabilities"]) for model in models] == [
        ("test-model", ["completion"]),
        ("vectors", ["embedding"]),
    ]
    assert client.get("/v1/models/vectors").json() == models[1]


def test_generate_asks_the_first_model_that_writes(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.served.reverse()
    client.post("/generate", json={"message": "Hi"})
    assert [request.model for request in backend.requests] == ["test-model"]
    backend.served[:] = [MODEL]
    assert client.post("/generate", json={"message": "Hi"}).json()["error"]["param"] == "model"


def failing(error: Exception | None) -> Any:
    async def script(backend: ScriptedBackend, request: EmbeddingRequest) -> AsyncGenerator[list[Event]]:
        yield [Accepted(1)]
        if error is not None:
            raise error

    return script


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ContextLengthExceeded(512, 600, "input[3]"), 400, "your input[3] resulted in 600 tokens"),
        (WorkerFailed("Broken."), 503, "Broken."),
        (None, 503, "ended before the answer was complete"),
    ],
)
def test_what_the_worker_answers_instead_is_told(
    client: httpx.Client, backend: ScriptedBackend, error: Exception | None, status: int, says: str
) -> None:
    backend.script = failing(error)
    response = ask(client, "a")
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


def test_a_client_that_leaves_ends_the_computation(url: str, backend: ScriptedBackend) -> None:
    async def never(backend: ScriptedBackend, request: EmbeddingRequest) -> AsyncGenerator[list[Event]]:
        await asyncio.Event().wait()
        yield []

    backend.script = never
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + EMBEDDINGS, json={"model": "vectors", "input": "a"}, timeout=0.2)
    assert backend.closed.acquire(timeout=5)


def test_numbers_are_the_vectors_own(client: httpx.Client, backend: ScriptedBackend) -> None:
    number = struct.unpack("<f", struct.pack("<f", math.pi))[0]

    async def script(backend: ScriptedBackend, request: EmbeddingRequest) -> AsyncGenerator[list[Event]]:
        yield [Embedded(struct.pack("<f", math.pi), 1), Usage(1, 0)]

    backend.script = script
    assert ask(client, "a").json()["data"][0]["embedding"] == [number]
