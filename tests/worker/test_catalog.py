"""What a model's header tells of its workers, and what is kept of the Volume between looks."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from pathlib import Path

import modal
import pytest

from tests.worker.llama.tiny_embedding_models import write_tiny_embedding_model
from tests.worker.llama.tiny_models import CONTEXT, write_tiny_model
from worker.catalog import Catalog, Overrides, Shelf, read_table
from worker.llama.batched import BatchedLlama
from worker.models.default import default_model
from worker.models.files import ModelFileError
from worker.models.header import read_header, token_bytes_of
from worker.settings import WorkerSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model("llama", tmp_path)
    return tmp_path


def settings(folder: Path, **update: object) -> WorkerSettings:
    mine = {"model_path": folder / "tiny-llama.gguf", "llm_slots": 16, "llm_ctx": 2048, **update}
    return WorkerSettings().model_copy(update=mine)


@pytest.mark.parametrize("mem_mb", [700, 900, 2000])
def test_the_header_tells_the_slots_that_the_worker_will_have(tmp_path: Path, mem_mb: int) -> None:
    (tmp_path / "model.gguf").hardlink_to(default_model())
    mine = settings(tmp_path, model_path=tmp_path / "model.gguf", mem_mb=mem_mb)
    served = Catalog(tmp_path, mine, {}, 2).scan()["model"]
    llama = BatchedLlama(str(mine.model_path), n_ctx=2048, num_slots=16, memory_mb=mem_mb)
    try:
        assert served.slots == llama.num_slots
    finally:
        llama.close()


@pytest.mark.parametrize(
    ("kind", "known"), [("llama", True), ("gemma3", True), ("mamba", False), ("lfm2", False)]
)
def test_only_where_every_layer_keeps_tokens_their_memory_is_told(
    tmp_path: Path, kind: str, known: bool
) -> None:
    header = read_header(write_tiny_model(kind, tmp_path))
    assert header[f"{kind}.context_length"] == CONTEXT
    assert (token_bytes_of(header) is not None) is known


def test_a_damaged_file_is_listed_and_left_to_its_worker(folder: Path) -> None:
    (folder / "cut.gguf").write_bytes((folder / "tiny-llama.gguf").read_bytes()[:60])
    served = Catalog(folder, settings(folder), {}, 2).scan()
    assert list(served) == ["tiny-llama", "cut"]
    assert served["cut"].slots == 16


def test_a_model_may_have_a_size_of_its_own(folder: Path) -> None:
    shutil.copy(folder / "tiny-llama.gguf", folder / "other.gguf")
    (folder / "models.toml").write_text(
        "[other]\ncpu = 2.5\nmemory = 4096\nllm_ctx = 128\nmax_containers = 3\n"
    )
    catalog = Catalog(folder, settings(folder), read_table(folder / "models.toml"), 2)
    served = catalog.scan()
    assert served["tiny-llama"].options == {}
    assert served["other"].options == {"cpu": 2.5, "memory": 4096, "max_containers": 3}
    assert served["other"].info.context_length == 128
    assert served["tiny-llama"].most_under_way == 16 * 2 + 256
    assert served["other"].most_under_way == 16 * 3 + 256
    worker = catalog.settings_of("other")
    assert (worker.llm_threads, worker.mem_mb, worker.llm_ctx) == (2, 4096, 128)
    assert worker.model_path == folder / "other.gguf"
    assert catalog.settings_of("tiny-llama").llm_ctx == 2048


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\ncpu = 0\nfast = true", "a.cpu: Input should be greater than 0"),
        ("[a]\nfast = true", "a.fast: Extra inputs are not permitted"),
        ("a = ", "is not TOML"),
        ('[a]\ngpu = "T4"', "Set GPU=T4 for the deployment"),
    ],
)
def test_a_wrong_table_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(ModelFileError, match=told):
        read_table(tmp_path / "models.toml")
    assert read_table(tmp_path / "none.toml") == {}


def test_on_a_gpu_memory_tells_nothing(folder: Path) -> None:
    tight = settings(folder, mem_mb=512)
    assert Catalog(folder, tight, {}, 2).scan()["tiny-llama"].slots == 1
    assert Catalog(folder, tight, {}, 2, on_gpu=True).scan()["tiny-llama"].slots == 16


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_embeddings_take_no_memory_by_the_request(tmp_path: Path, kind: str) -> None:
    path = write_tiny_embedding_model(kind, tmp_path)
    served = Catalog(tmp_path, settings(tmp_path, model_path=path, mem_mb=512), {}, 2).scan()[path.stem]
    assert (served.info.kind, served.slots) == ("embedding", 16)


def test_a_volume_that_cannot_be_reloaded_is_no_ones_failure(folder: Path) -> None:
    """The first look needs no reload; then reloads fail twice, and the third shows the new file."""
    reloads = iter([ConnectionError("down"), ConnectionError("down"), None])
    done = asyncio.Event()

    async def reload() -> None:
        failure = next(reloads, None)
        if failure:
            raise failure
        done.set()
        await asyncio.sleep(0)

    async def look() -> tuple[list[str], list[str]]:
        shelf = Shelf(Catalog(folder, settings(folder), {}, 2), reload)
        shelf.SECONDS_BETWEEN_LOOKS = 0.0
        first = [model.id for model in await shelf.models()]
        shutil.copy(folder / "tiny-llama.gguf", folder / "new.gguf")
        async with asyncio.timeout(10):
            await done.wait()
            while shelf.served("new") is None:
                await asyncio.sleep(0)
        return first, [model.id for model in await shelf.models()]

    assert asyncio.run(look()) == (["tiny-llama"], ["tiny-llama", "new"])


def test_overrides_name_options_of_modals() -> None:
    known = set(inspect.signature(modal.cls._Cls.with_options).parameters)
    assert set(Overrides.model_fields) - {"llm_ctx", "llm_slots"} <= known
