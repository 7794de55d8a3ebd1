"""What a file says of itself before it is loaded."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from tests.worker.llama.tiny_models import CONTEXT, write_tiny_model
from worker.models.default import default_model
from worker.models.header import model_kind, read_header


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_a_model_that_pools_makes_embeddings(kind: str, tmp_path: Path) -> None:
    assert model_kind(write_tiny_embedding_model(kind, tmp_path)) == "embedding"


def test_an_encoder_makes_embeddings_though_it_does_not_say_so(tmp_path: Path) -> None:
    unsaid = gguf.PoolingType.NONE
    assert model_kind(write_tiny_embedding_model("bert", tmp_path, pooling=unsaid)) == "embedding"
    assert model_kind(write_tiny_embedding_model("qwen3", tmp_path, pooling=unsaid)) == "chat"


def test_other_models_write(tmp_path: Path) -> None:
    assert model_kind(default_model()) == "chat"
    path = write_tiny_model("llama", tmp_path)
    assert model_kind(path) == "chat"
    assert read_header(path)["llama.context_length"] == CONTEXT  # which stands behind the vocabulary here


def test_a_damaged_header_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_tiny_embedding_model("bert", tmp_path).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, 2000, 7):
        cut.write_bytes(whole[:length])
        assert set(read_header(cut)) <= set(read_header(tmp_path / "tiny-bert.gguf"))
    cut.write_bytes(whole[:16] + b"\xff" * 64)
    assert model_kind(cut) == "chat"
    assert model_kind(tmp_path / "missing.gguf") == "chat"
