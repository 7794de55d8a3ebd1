"""The worker of an embedding model: texts in, vectors out. Called as `worker.service.Worker` is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from worker.llama.embedding_context import CannotEmbed
from worker.llama.embedding_model import EmbeddingModel, normalised
from worker.models.files import ModelFileError, slow_type_notice
from worker.protocol import (
    Accepted,
    Embedded,
    EmbeddingRequest,
    EngineStats,
    Event,
    InvalidRequest,
    ModelInfo,
    Request,
    Usage,
    WorkerFailed,
    WorkerStats,
    WrongKind,
)
from worker.settings import WorkerSettings

log = logging.getLogger("worker")


def load_embedding_model(path: Path, settings: WorkerSettings, advice: str) -> EmbeddingModel:
    """The model, loaded once. Raises ModelFileError, with `advice` where another file is needed."""
    started = time.perf_counter()
    try:
        model = EmbeddingModel(
            str(path),
            n_ctx=settings.llm_ctx,
            n_batch=settings.llm_n_batch,
            n_threads=settings.llm_threads,
            max_waiting=settings.llm_max_waiting,
            n_gpu_layers=settings.n_gpu_layers,
        )
    except CannotEmbed as error:
        raise ModelFileError(f"{path} cannot be served: {error}. {advice}") from error
    except ValueError as error:
        raise ModelFileError(
            f"llama.cpp could not load {path}: the file is truncated, damaged, or of a kind that this "
            f"version does not know ({error}). Copy it again, or choose another. {advice}"
        ) from error
    except MemoryError as error:
        raise ModelFileError(f"{error}. Set a smaller LLM_CTX, or serve a smaller model.") from error
    seconds = time.perf_counter() - started
    if slow_type := slow_type_notice(path, model.metadata):
        log.warning(slow_type)
    log.info(
        "%s: embeddings of %d numbers, %d tokens an input; loaded in %.2f s",
        *(path.name, model.size, model.context_length, seconds),
    )
    return model


class EmbeddingWorker:
    """One embedding model, loaded once, answering many at a time."""

    def __init__(self, model: EmbeddingModel, settings: WorkerSettings) -> None:
        self._model, self._settings = model, settings
        self.num_slots = settings.llm_slots or settings.llm_max_waiting + 1
        self.model = ModelInfo(settings.served_name, int(time.time()), model.context_length, "embedding")

    @property
    def alive(self) -> bool:
        return self._model.alive

    async def models(self) -> Sequence[ModelInfo]:
        return [self.model]

    async def check(self) -> None:
        if not self.alive:
            raise WorkerFailed("The model has stopped; see the log for the reason, and restart the worker.")

    async def stats(self) -> Sequence[WorkerStats]:
        return [WorkerStats("local", self.model.id, self._engine_stats())]

    async def running_models(self) -> Sequence[str]:
        return [self.model.id]

    async def not_ready(self) -> Sequence[str]:
        """Why a request would not be answered now; nothing where it would."""
        if not self.alive:
            return ["The model has stopped."]
        stats, reasons = self._model.stats(), []
        # One input of many tokens may be a batch of many times the usual size.
        num_usual = max(1, stats.num_tokens_running / self._settings.llm_n_batch)
        if stats.seconds_in_batch > self._settings.llm_stall_seconds * num_usual:
            reasons.append(f"The model has been in one batch for {stats.seconds_in_batch:.0f} seconds.")
        if self._model.is_full:
            reasons.append("The queue is full.")
        return reasons

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        """`Accepted`, then `Embedded` and `Usage`. Closing the generator stops it at the next batch."""
        if not isinstance(request, EmbeddingRequest):
            raise WrongKind(self.model.id, "embedding")
        size = self._model.size
        if request.dimensions is not None and request.dimensions > size:
            raise InvalidRequest(
                f"This model's vectors have {size} numbers, fewer than 'dimensions' asks for. Send at most "
                f"{size}, or leave it out.",
                "dimensions",
            )
        inputs = await asyncio.to_thread(self._model.tokens, request.inputs)
        num_tokens = sum(map(len, inputs))
        yield [Accepted(num_tokens)]
        vectors = await asyncio.wrap_future(self._model.embed(inputs))
        rows = normalised(vectors, request.dimensions)
        yield [Embedded(rows.astype("<f4").tobytes(), rows.shape[1]), Usage(num_tokens, 0)]

    def _engine_stats(self) -> EngineStats:
        """As an engine that writes tells them: inputs are sequences, batches are steps, the rest is zero."""
        stats = self._model.stats()
        nothing: dict[str, Any] = {each.name: 0 for each in fields(EngineStats)}
        mine = {
            "num_slots": self.num_slots,
            "context_length": self.model.context_length,
            "num_running": stats.num_running,
            "num_waiting": stats.num_waiting,
            "seconds_in_turn": stats.seconds_in_batch,
            "num_prompt_tokens_total": stats.num_tokens_total,
            "prompt_seconds_total": stats.batch_seconds_total,
            "num_steps_total": stats.num_batches_total,
            "num_scheduled_total": stats.num_finished_total + stats.num_failed_total,
            "num_finished_total": stats.num_finished_total,
            "num_failed_total": stats.num_failed_total,
            "step_seconds_total": stats.batch_seconds_total,
            "num_steps_by_seconds": stats.num_batches_by_seconds,
        }
        return EngineStats(**nothing | mine)

    def close(self) -> None:
        self._model.close()
