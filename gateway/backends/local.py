"""The workers in this process: one for each model, by name, loaded when it is first asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from worker.embedding_service import EmbeddingWorker
from worker.llama.interrupts import ctrl_c_exits
from worker.llama.machine import available_memory_mb
from worker.llama.memory import RESERVED_MB
from worker.models.files import check_model_file
from worker.models.header import describe
from worker.protocol import Event, ModelInfo, Overloaded, Request, WorkerFailed, WorkerStats
from worker.service import Worker, load_worker
from worker.settings import WorkerSettings

log = logging.getLogger("worker")

AnyWorker = Worker | EmbeddingWorker
RETRY_SECONDS = 5.0  # until an answer that keeps another model in memory may have ended


@contextlib.contextmanager
def local_models(settings: Sequence[WorkerSettings]) -> Iterator[LocalModels]:
    """A backend with the first model loaded; all are freed on leaving. Raises ModelFileError.

    Ctrl-C while the first model loads ends the process at once.
    """
    models = LocalModels(settings)
    try:
        with ctrl_c_exits():
            models.load_first()
        yield models
    finally:
        models.close()


@dataclass(slots=True)
class _Model:
    settings: WorkerSettings
    info: ModelInfo
    worker: AnyWorker | None = None
    loading: asyncio.Future[AnyWorker] | None = None
    num_answers: int = 0  # under way, or waiting for the model
    last_used: float = field(default_factory=time.monotonic)


class LocalModels:
    """Each model has a worker of its own from when it is first asked for.

    Where memory is short, models that nobody is answered by are freed for it, the longest unused first.
    """

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        load: Callable[[WorkerSettings], AnyWorker] = load_worker,
        available_mb: Callable[[], int | None] = available_memory_mb,
    ) -> None:
        """Raises ModelFileError for a file that is none."""
        self._load, self._available_mb = load, available_mb
        infos = [
            describe(each.served_name, check_model_file(each.model_path), each.llm_ctx) for each in settings
        ]
        self._models: Mapping[str, _Model] = {
            info.id: _Model(each, info) for each, info in zip(settings, infos, strict=True)
        }
        self._one_load_at_a_time = asyncio.Lock()

    def load_first(self) -> None:
        first = next(iter(self._models.values()))
        _attach(first, self._load(self._within_memory(first.settings)))

    @property
    def first(self) -> AnyWorker:
        worker = next(iter(self._models.values())).worker
        assert worker is not None
        return worker

    async def models(self) -> Sequence[ModelInfo]:
        return [model.info for model in self._models.values()]

    async def running_models(self) -> Sequence[str]:
        return [name for name, model in self._models.items() if model.worker]

    async def check(self) -> None:
        for worker in self._workers():
            await worker.check()

    async def not_ready(self) -> Sequence[str]:
        return [reason for worker in self._workers() for reason in await worker.not_ready()]

    async def stats(self) -> Sequence[WorkerStats]:
        return [stats for worker in self._workers() for stats in await worker.stats()]

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        model = self._models[request.model]
        model.num_answers += 1
        try:
            worker = model.worker or await self._loaded(model)
            async with aclosing(worker.chat(request)) as batches:
                async for events in batches:
                    yield events
        finally:
            model.num_answers -= 1
            model.last_used = time.monotonic()

    def close(self) -> None:
        for worker in self._workers():
            worker.close()

    def _workers(self) -> list[AnyWorker]:
        return [model.worker for model in self._models.values() if model.worker]

    async def _loaded(self, model: _Model) -> AnyWorker:
        """Waits for a load that others may have begun; one who stops waiting does not stop it."""
        if model.loading is None:
            model.loading = asyncio.ensure_future(self._load_model(model))
        return await asyncio.shield(model.loading)

    async def _load_model(self, model: _Model) -> AnyWorker:
        try:
            async with self._one_load_at_a_time:
                await self._make_room(model)
                worker = await asyncio.to_thread(self._load, self._within_memory(model.settings))
                return _attach(model, worker)
        except WorkerFailed as error:
            log.error("%s: %s", model.info.id, error)
            raise
        finally:
            model.loading = None

    async def _make_room(self, model: _Model) -> None:
        """Raises Overloaded where other models' answers are in the way, WorkerFailed where nothing helps."""
        needed = _size_mb(model.settings) + RESERVED_MB
        while (available := self._available_mb()) is not None and available < needed:
            others = [other for other in self._models.values() if other.worker]
            idle = [other for other in others if not other.num_answers]
            if not others:
                raise WorkerFailed(
                    f"There is not enough memory for the model '{model.info.id}': it needs {needed} MiB, and "
                    f"{available} MiB are free. Serve a smaller model, or end other programs."
                )
            if not idle:
                why = f"There is no memory for the model '{model.info.id}' while others answer. Try again."
                raise Overloaded(why, RETRY_SECONDS)
            await self._unload(min(idle, key=lambda other: other.last_used))

    async def _unload(self, model: _Model) -> None:
        worker, model.worker = model.worker, None
        assert worker is not None
        log.info("%s is freed: its memory is needed", model.info.id)
        await asyncio.to_thread(worker.close)

    def _within_memory(self, settings: WorkerSettings) -> WorkerSettings:
        return within_memory(settings, self._available_mb())


def _attach(model: _Model, worker: AnyWorker) -> AnyWorker:
    model.worker = worker
    model.info = replace(model.info, context_length=worker.model.context_length)
    return worker


def within_memory(settings: WorkerSettings, available_mb: int | None) -> WorkerSettings:
    """On a machine of the user's own, take a quarter of what is free beside the model's own size."""
    if "mem_mb" in settings.model_fields_set or available_mb is None:
        return settings
    mem_mb = _size_mb(settings) + min(settings.mem_mb, available_mb // 4)
    return settings.model_copy(update={"mem_mb": min(available_mb, mem_mb)})


def shared_memory(settings: Sequence[WorkerSettings]) -> list[WorkerSettings]:
    """Where MEM_MB is set, it is for all models: each has its own size of it, and what is left evenly."""
    if "mem_mb" not in settings[0].model_fields_set:
        return list(settings)
    sizes = [_size_mb(each) for each in settings]
    share = max(0, settings[0].mem_mb - sum(sizes)) // len(settings)
    return [
        each.model_copy(update={"mem_mb": size + share}) for each, size in zip(settings, sizes, strict=True)
    ]


def _size_mb(settings: WorkerSettings) -> int:
    return check_model_file(settings.model_path).stat().st_size >> 20
