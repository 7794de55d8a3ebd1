"""Vectors of tiny models of both kinds: the same however they are batched, and of the right tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.worker.llama.tiny_embedding_models import (
    CLS,
    CONTEXT,
    POOLING,
    SEP,
    UNK,
    write_tiny_embedding_model,
)
from worker.llama.embedding_context import CannotEmbed
from worker.llama.embedding_model import EmbeddingModel, normalised
from worker.protocol import ContextLengthExceeded, InvalidRequest

N_BATCH = 32
TEXTS = ["abc def", "a", "gg hh " * 8, *("ab" * length for length in range(1, 40)), "a c " * 30]


KINDS = [*POOLING.items(), ("qwen3", gguf.PoolingType.MEAN)]


@pytest.fixture(params=KINDS, scope="module", ids=lambda kind: f"{kind[0]}-{kind[1].name}")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, pooling = request.param
    return write_tiny_embedding_model(kind, tmp_path_factory.mktemp("model"), pooling=pooling)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[EmbeddingModel]:
    model = EmbeddingModel(str(path), n_batch=N_BATCH)
    yield model
    model.close()


def test_a_batch_gives_what_each_input_gives_alone(model: EmbeddingModel) -> None:
    inputs = model.tokens(TEXTS)
    together = normalised(model.embed(inputs).result(60))
    alone = np.concatenate([normalised(model.embed([tokens]).result(60)) for tokens in inputs])
    assert (together * alone).sum(axis=1).min() > 0.9999
    assert np.linalg.matrix_rank(together) > 20  # and not one vector for all


def test_a_long_input_is_the_same_in_pieces_and_at_once(path: Path, model: EmbeddingModel) -> None:
    at_once = EmbeddingModel(str(path), n_batch=CONTEXT)
    [tokens] = model.tokens(["a c e " * 21])
    assert N_BATCH < len(tokens) <= CONTEXT
    vectors = [normalised(each.embed([tokens]).result(60)) for each in (model, at_once)]
    assert (vectors[0] * vectors[1]).sum() > 0.9999
    at_once.close()


def test_an_input_does_not_depend_on_those_before_it(model: EmbeddingModel) -> None:
    first, second, again = (model.embed(model.tokens([text])).result(60) for text in ("ab", "cdef g", "ab"))
    assert np.array_equal(first, again)
    assert not np.allclose(first, second)


def test_an_input_beyond_the_context_is_refused_by_its_index(model: EmbeddingModel) -> None:
    most = [3] * CONTEXT
    assert model.embed(model.tokens([most])).result(60).shape == (1, 64)
    with pytest.raises(ContextLengthExceeded, match=r"256 tokens\. However, your input\[1\] resulted in 257"):
        model.tokens(["a", [*most, 3]])
    with pytest.raises(ContextLengthExceeded, match="your input resulted in"):
        model.tokens(["a " * 1000])


def test_a_token_that_the_model_does_not_have_is_refused(model: EmbeddingModel) -> None:
    with pytest.raises(InvalidRequest, match=r"^input\[1\] has the token 100000, which is not in this model"):
        model.tokens([[1], [1, 100000]])


def test_many_at_a_time_get_their_own(model: EmbeddingModel) -> None:
    inputs = model.tokens(TEXTS)
    futures = [model.embed([tokens]) for tokens in inputs]
    alone = normalised(model.embed(inputs).result(60))
    vectors = np.concatenate([normalised(future.result(60)) for future in futures])
    assert (vectors * alone).sum(axis=1).min() > 0.9999


def loaded(folder: Path, kind: str, pooling: gguf.PoolingType | None = None) -> EmbeddingModel:
    return EmbeddingModel(str(write_tiny_embedding_model(kind, folder, pooling=pooling)))


def test_texts_stand_between_the_tokens_that_the_model_expects(tmp_path: Path) -> None:
    bert, qwen = loaded(tmp_path, "bert"), loaded(tmp_path, "qwen3")
    assert bert.tokens(["a", ""]) == [[CLS, 4, SEP], [CLS, SEP]]
    assert qwen.tokens(["a"])[0][-1] == 2
    assert bert.tokens([[4, 5]]) == [[4, 5]]  # tokens as they stand
    bert.close()
    qwen.close()


def test_text_never_becomes_control_tokens(tmp_path: Path) -> None:
    bert = loaded(tmp_path, "bert")
    assert bert.tokens(["[SEP]"]) == [[CLS, UNK, UNK, UNK, SEP]]
    bert.close()


def test_the_file_says_how_to_pool(tmp_path: Path) -> None:
    vectors = {}
    for pooling in (gguf.PoolingType.MEAN, gguf.PoolingType.CLS, gguf.PoolingType.NONE):
        model = loaded(tmp_path, "bert", pooling)
        vectors[pooling] = normalised(model.embed([[CLS, 4, 9, SEP]]).result(60))
        model.close()
    mean, first, unsaid = vectors.values()
    assert not np.allclose(mean, first, atol=1e-2)
    assert np.array_equal(mean, unsaid)


def test_a_model_that_ranks_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CannotEmbed, match="ranks texts"):
        loaded(tmp_path, "bert", gguf.PoolingType.RANK)


def test_fewer_dimensions_are_the_first_ones_normalised_again() -> None:
    rows = np.array([[3, 4, 12], [0, 0, 5]], np.float32)
    assert np.allclose(normalised(rows), np.array([[3 / 13, 4 / 13, 12 / 13], [0, 0, 1]]))
    assert np.allclose(normalised(rows, 2), np.array([[0.6, 0.8], [0, 0]]))
