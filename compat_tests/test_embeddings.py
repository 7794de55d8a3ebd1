"""Embeddings from a running server, as clients of OpenAI's ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from compat_tests.server import Server, running_server
from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from worker.models.default import default_model

MODEL = "tiny-bert"
TEXTS = [f"{word} {'ab' * (number % 60)}" for number, word in enumerate(["abc", "def", "gh", "c d e"] * 25)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = write_tiny_embedding_model("bert", tmp_path_factory.mktemp("models"))
    with running_server("--model", str(default_model()), "--model", str(path), LLM_CTX="1024") as server:
        yield server


def test_the_sdk_gets_the_same_vectors_in_base64_and_as_numbers(client: openai.OpenAI) -> None:
    """Unless told, the SDK asks for base64 and decodes it."""
    decoded = client.embeddings.create(model=MODEL, input=TEXTS)
    numbers = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert [each.index for each in decoded.data] == list(range(len(TEXTS)))
    vectors = np.array([each.embedding for each in decoded.data])
    assert np.allclose(vectors, np.array([each.embedding for each in numbers.data]), atol=1e-3)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert decoded.usage.prompt_tokens == decoded.usage.total_tokens == numbers.usage.prompt_tokens > 100


def test_tokens_and_fewer_dimensions(client: openai.OpenAI) -> None:
    """As LangChain's OpenAIEmbeddings sends tokens: a list of lists."""
    text = client.embeddings.create(model=MODEL, input="ab", dimensions=16).data[0].embedding
    [tokens, _] = client.embeddings.create(model=MODEL, input=[[2, 4, 13, 3], [5]], dimensions=16).data
    assert len(text) == 16
    assert np.allclose(text, tokens.embedding, atol=1e-3)


def test_what_is_too_long_is_told_by_its_index(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"your input\[1\] resulted in 302 tokens") as refused:
        client.embeddings.create(model=MODEL, input=["ab", "a " * 300])
    assert refused.value.code == "context_length_exceeded"


def test_both_models_are_served_by_name(client: openai.OpenAI) -> None:
    chat, embedding = client.models.list().data
    assert embedding.id == MODEL
    hello: list[Any] = [{"role": "user", "content": "Hi"}]
    reply = client.chat.completions.create(model=chat.id, messages=hello, max_tokens=3)
    assert reply.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        client.embeddings.create(model=chat.id, input="ab")


def test_a_chat_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes embeddings") as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.param == "model"
