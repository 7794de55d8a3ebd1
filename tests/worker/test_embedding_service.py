"""The worker of an embedding model, as the gateway calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from tests.worker.llama.tiny_models import write_tiny_model
from worker.embedding_service import EmbeddingWorker
from worker.engine.embedder import EmbedderStats
from worker.models.files import ModelFileError
from worker.protocol import (
    STEP_BUCKETS,
    Accepted,
    ChatRequest,
    Embedded,
    EmbeddingRequest,
    Event,
    InvalidRequest,
    Usage,
    WorkerFailed,
    WrongKind,
)
from worker.service import Worker, load_worker
from worker.settings import WorkerSettings


def load(path: Path, **settings: Any) -> Worker | EmbeddingWorker:
    return load_worker(WorkerSettings(model_path=path, mem_mb=512, llm_slots=1, **settings))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingWorker]:
    worker = load(write_tiny_embedding_model("bert", tmp_path_factory.mktemp("model")))
    assert isinstance(worker, EmbeddingWorker)
    yield worker
    worker.close()


def answer(worker: Worker | EmbeddingWorker, request: Any) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for batch in worker.chat(request) for event in batch]

    return asyncio.run(collect())


def asked(*inputs: Any, **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest("id", "tiny-bert", inputs, **fields)


def rows(embedded: Event) -> Any:
    assert isinstance(embedded, Embedded)
    return np.frombuffer(embedded.vectors, "<f4").reshape(-1, embedded.dimensions)


def test_vectors_have_length_one_and_tokens_are_counted(worker: EmbeddingWorker) -> None:
    accepted, embedded, usage = answer(worker, asked("ab", "c", (4, 5)))
    assert accepted == Accepted(9)
    assert usage == Usage(9, 0)
    assert rows(embedded).shape == (3, 64)
    assert np.allclose(np.linalg.norm(rows(embedded), axis=1), 1, atol=1e-5)


def test_dimensions_cut_and_normalise_again(worker: EmbeddingWorker) -> None:
    _, whole, _ = answer(worker, asked("ab"))
    _, cut, _ = answer(worker, asked("ab", dimensions=8))
    first = rows(whole)[:, :8]
    assert np.allclose(rows(cut), first / np.linalg.norm(first), atol=1e-5)
    with pytest.raises(InvalidRequest, match=r"vectors have 64 numbers, fewer than 'dimensions'"):
        answer(worker, asked("ab", dimensions=65))


def test_it_tells_what_it_is(worker: EmbeddingWorker) -> None:
    [model] = asyncio.run(worker.models())
    assert (model.id, model.kind, model.context_length) == ("tiny-bert", "embedding", 256)
    asyncio.run(worker.check())


def test_its_figures_are_an_engines(worker: EmbeddingWorker) -> None:
    answer(worker, asked("ab", "c"))
    [stats] = asyncio.run(worker.stats())
    assert (stats.model, stats.engine.num_waiting) == ("tiny-bert", 0)
    assert stats.engine.num_finished_total >= 2
    assert len(stats.engine.num_steps_by_seconds) == len(STEP_BUCKETS) + 1
    assert asyncio.run(worker.not_ready()) == []


@dataclass
class BusyModel:
    """In a batch of `num_tokens` for `seconds` now."""

    seconds: float
    num_tokens: int
    is_full: bool = False
    context_length, alive = 8192, True

    def stats(self) -> EmbedderStats:
        counts = (0,) * (len(STEP_BUCKETS) + 1)
        return EmbedderStats(1, 0, self.num_tokens, self.seconds, 0, 0, 0, 0, 0.0, counts)


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        (BusyModel(14, 256), []),
        (BusyModel(16, 256), ["The model has been in one batch for 16 seconds."]),
        (BusyModel(16, 8192), []),  # 32 times as many tokens as usual
        (BusyModel(500, 8192), ["The model has been in one batch for 500 seconds."]),
        (BusyModel(0, 0, is_full=True), ["The queue is full."]),
    ],
)
def test_a_batch_that_takes_too_long_for_its_size_is_told(model: Any, reasons: list[str]) -> None:
    worker = EmbeddingWorker(model, WorkerSettings(llm_n_batch=256, llm_stall_seconds=15))
    assert asyncio.run(worker.not_ready()) == reasons


def test_each_kind_refuses_what_the_other_does(worker: EmbeddingWorker, tmp_path: Path) -> None:
    with pytest.raises(WrongKind, match="'tiny-bert' makes embeddings"):
        answer(worker, ChatRequest("id", "tiny-bert", [{"role": "user", "content": "Hi"}]))
    chat = load(write_tiny_model("llama", tmp_path))
    with pytest.raises(WrongKind, match="'tiny-llama' writes text"):
        answer(chat, asked("ab"))
    chat.close()


def test_leaving_stops_the_computation(worker: EmbeddingWorker) -> None:
    async def leave() -> None:
        batches = worker.chat(asked(*["abcdefgh" * 20] * 2000))
        await anext(batches)
        rest = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        rest.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rest

    asyncio.run(leave())
    assert len(answer(worker, asked("ab"))) == 3


def test_a_file_that_cannot_be_served_is_told(tmp_path: Path) -> None:
    ranks = write_tiny_embedding_model("bert", tmp_path, "ranks", gguf.PoolingType.RANK)
    with pytest.raises(ModelFileError, match=r"ranks\.gguf cannot be served: it ranks texts"):
        load(ranks)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(ranks.read_bytes()[:-50_000])
    with pytest.raises(ModelFileError, match="could not load"):
        load(cut)


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    worker = load(write_tiny_embedding_model("qwen3", tmp_path))
    worker.close()
    assert not worker.alive
    with pytest.raises(WorkerFailed):
        asyncio.run(worker.check())
