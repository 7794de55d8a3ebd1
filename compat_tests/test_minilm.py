"""A real embedding model behind the server: the tokens and vectors that its authors' code gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from compat_tests import minilm
from compat_tests.environments import python_environment
from compat_tests.server import Server, running_server
from worker.llama.embedding_model import EmbeddingModel

pytestmark = pytest.mark.clients  # it is downloaded

TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "",
    "  Spaces\tand\n\nlines  ",
    "Ünïcödé, naïve café; ŁÓDŹ",
    "東京は日本の首都です。",
    "Emoji 🙂 and symbols ©®™ №5 ½",
    "user@example.com https://example.com/a_b?c=1&d=2",
    "Supercalifragilisticexpialidocious antidisestablishmentarianism " * 8,
    "x" * 100 + " " + "1234567890" * 10,  # of longer words, llama.cpp knows more than the authors' code
]
CLIENTS = Path(__file__).parent / "clients"
TOKENIZER, LANGCHAIN = CLIENTS / "tokenize_texts.py", CLIENTS / "langchain_embeddings.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--model", str(minilm.gguf_file())) as server:
        yield server


@pytest.fixture(scope="module")
def tokens() -> list[list[int]]:
    """By Hugging Face's own tokenizer."""
    python = python_environment("tokenizers==0.22.2") / "python"
    command = [str(python), str(TOKENIZER), str(minilm.files() / "tokenizer.json")]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
    ids: list[list[int]] = json.loads(done.stdout)
    return ids


def vectors(client: openai.OpenAI, texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    reply = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
    return np.array([each.embedding for each in reply.data])


def test_texts_become_the_tokens_of_the_models_own_tokenizer(tokens: list[list[int]]) -> None:
    model = EmbeddingModel(str(minilm.gguf_file()))
    assert model.tokens(TEXTS) == tokens
    model.close()


def test_vectors_are_those_of_the_weights(client: openai.OpenAI, tokens: list[list[int]]) -> None:
    texts = [text or " " for text in TEXTS]
    weights = minilm.weights(minilm.files())
    expected = np.array([minilm.reference(ids, weights) for ids in tokens])
    assert (vectors(client, texts) * expected).sum(axis=1).min() > 0.9999


def test_similarities_are_those_that_its_authors_publish(client: openai.OpenAI) -> None:
    """https://www.sbert.net/docs/quickstart.html, for the same model and sentences."""
    found = vectors(client, TEXTS[:3])
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert np.allclose(found @ found.T, np.array(published), atol=1e-3)


@pytest.mark.timeout(900)
def test_langchain_gets_them_too(server: Server, client: openai.OpenAI) -> None:
    python = python_environment("langchain-openai") / "python"
    command = [str(python), str(LANGCHAIN), server.base_url, "all-MiniLM-L6-v2"]
    done = subprocess.run(command, input=json.dumps(TEXTS[:3]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.array(json.loads(done.stdout)), vectors(client, TEXTS[:3]), atol=1e-3)
