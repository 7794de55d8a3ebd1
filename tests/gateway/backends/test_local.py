"""Several models in one process: each loaded when it is first asked for, within the memory there is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.local import AnyWorker, LocalModels, shared_memory
from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from tests.worker.llama.tiny_models import write_tiny_model
from tests.worker.models.fake_hub import TINY_GGUF
from worker.llama.memory import RESERVED_MB
from worker.models.files import ModelFileError
from worker.protocol import (
    CompletionRequest,
    EmbeddingRequest,
    Event,
    ModelInfo,
    Overloaded,
    SamplingParams,
    TextDelta,
    Usage,
    WorkerFailed,
)
from worker.service import load_worker
from worker.settings import WorkerSettings

SIZE_MB = 100  # of each model, weights and all


@dataclass
class FakeWorker:
    settings: WorkerSettings
    machine: Machine
    end: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(self.settings.served_name, 0, 77)

    async def chat(self, request: CompletionRequest) -> AsyncGenerator[list[Event]]:
        yield [TextDelta(0, self.settings.served_name)]
        if request.prompts == ("wait",):
            await self.end.wait()

    def close(self) -> None:
        self.machine.loaded.remove(self.settings.served_name)


@dataclass
class Machine:
    """Memory for so many models; what is loaded now, and what ever was. A load waits for `go`."""

    room: int
    loaded: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    failure: WorkerFailed | None = None
    go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def available_mb(self) -> int:
        return RESERVED_MB + SIZE_MB * (self.room - len(self.loaded))

    def load(self, settings: WorkerSettings) -> Any:
        assert self.go.wait(10)
        self.loads.append(settings.served_name)
        if self.failure:
            raise self.failure
        self.loaded.append(settings.served_name)
        return FakeWorker(settings, self)


@pytest.fixture
def files(tmp_path: Path) -> list[WorkerSettings]:
    """Of three models, `a`, `b` and `c`, each of SIZE_MB, though no disk holds them."""
    settings = []
    for name in "abc":
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(TINY_GGUF)
        with path.open("r+b") as file:
            file.truncate(SIZE_MB << 20)
        settings.append(WorkerSettings(model_path=path))
    return settings


async def ask(models: LocalModels, name: str, prompt: str = "") -> str:
    request = CompletionRequest("id", name, (prompt,))
    events = [event async for batch in models.chat(request) for event in batch]
    assert isinstance(events[0], TextDelta)
    return events[0].text


def run(
    files: Sequence[WorkerSettings], machine: Machine, story: Callable[[LocalModels], Awaitable[None]]
) -> None:
    async def told() -> None:
        models = LocalModels(files, machine.load, machine.available_mb)
        models.load_first()
        await asyncio.wait_for(story(models), 10)
        models.close()
        assert machine.loaded == []

    asyncio.run(told())


def test_a_model_is_loaded_once_when_it_is_first_asked_for(files: list[WorkerSettings]) -> None:
    machine = Machine(room=3)

    async def story(models: LocalModels) -> None:
        assert [model.id for model in await models.models()] == ["a", "b", "c"]
        assert await models.running_models() == ["a"]
        answers = await asyncio.gather(*(ask(models, name) for name in "abbabb"))
        assert answers == list("abbabb")
        assert machine.loads == ["a", "b"]
        assert await models.running_models() == ["a", "b"]
        assert [model.context_length for model in await models.models()] == [77, 77, 8192]

    run(files, machine, story)


def test_who_is_unused_the_longest_makes_room(files: list[WorkerSettings]) -> None:
    machine = Machine(room=2)

    async def story(models: LocalModels) -> None:
        for name in "abac":
            assert await ask(models, name) == name
        assert machine.loaded == ["a", "c"]
        assert await ask(models, "b") == "b"
        assert machine.loaded == ["c", "b"]

    run(files, machine, story)


def test_a_model_that_answers_is_not_freed(files: list[WorkerSettings]) -> None:
    machine = Machine(room=1)

    async def story(models: LocalModels) -> None:
        answer = models.chat(CompletionRequest("id", "a", ("wait",)))
        await anext(answer)
        with pytest.raises(Overloaded, match="no memory for the model 'b' while others answer"):
            await ask(models, "b")
        await answer.aclose()
        assert await ask(models, "b") == "b"
        assert machine.loaded == ["b"]

    run(files, machine, story)


def test_a_model_that_can_never_fit_is_told(files: list[WorkerSettings]) -> None:
    machine = Machine(room=1)

    async def story(models: LocalModels) -> None:
        machine.room = 0
        with pytest.raises(WorkerFailed, match=r"needs 612 MiB, and 512 MiB are free"):
            await ask(models, "b")

    run(files, machine, story)


def test_a_load_that_fails_is_told_and_tried_again(files: list[WorkerSettings]) -> None:
    machine = Machine(room=3)

    async def story(models: LocalModels) -> None:
        machine.failure = ModelFileError("It is damaged.")
        answers = await asyncio.gather(ask(models, "b"), ask(models, "b"), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["It is damaged."] * 2
        machine.failure = None
        assert await ask(models, "b") == "b"
        assert machine.loads == ["a", "b", "b"]

    run(files, machine, story)


def test_a_client_that_leaves_does_not_stop_a_load(files: list[WorkerSettings]) -> None:
    machine = Machine(room=3)

    async def story(models: LocalModels) -> None:
        machine.go.clear()
        leaving, staying = (asyncio.ensure_future(ask(models, "b")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        machine.go.set()
        assert await staying == "b"
        assert leaving.cancelled()
        assert machine.loads == ["a", "b"]

    run(files, machine, story)


def test_a_memory_that_is_set_is_for_all(files: list[WorkerSettings]) -> None:
    assert shared_memory(files) == files
    limited = [each.model_copy(update={"mem_mb": 900}) for each in files]
    assert [each.mem_mb for each in shared_memory(limited)] == [300, 300, 300]


def test_a_file_that_is_none_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No model file"):
        LocalModels([WorkerSettings(model_path=tmp_path / "missing.gguf")])


def test_real_models_take_turns_where_only_one_fits(tmp_path: Path) -> None:
    paths = [write_tiny_model("llama", tmp_path), write_tiny_embedding_model("bert", tmp_path)]
    settings = [WorkerSettings(model_path=path, mem_mb=512, llm_slots=1, llm_ctx=256) for path in paths]
    text = CompletionRequest("id", "tiny-llama", ("ab",), SamplingParams(max_tokens=2))
    vectors = EmbeddingRequest("id", "tiny-bert", ("ab",))

    async def story() -> None:
        loaded: list[AnyWorker] = []

        def load(settings: WorkerSettings) -> AnyWorker:
            loaded.append(load_worker(settings))
            return loaded[-1]

        def available_mb() -> int:
            return 0 if any(worker.alive for worker in loaded) else RESERVED_MB

        models = LocalModels(settings, load, available_mb)
        for request in (text, vectors) * 3:
            events = [event async for batch in models.chat(request) for event in batch]
            assert isinstance(events[-1], Usage)
            assert await models.running_models() == [request.model]
        assert len(loaded) == 6
        models.close()

    asyncio.run(story())
