"""The models on a Volume, each with the worker that it gets: its settings, and how many requests fit."""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.llama.memory import divide_memory
from worker.models.files import ModelFileError, models_in, size_of
from worker.models.header import Header, context_length_of, kind_of, read_header, token_bytes_of
from worker.protocol import ModelInfo
from worker.settings import WorkerSettings

log = logging.getLogger("worker")


class Overrides(BaseModel):
    """What one model's workers have that others' have not: a table of models.toml, by the model's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: float | None = Field(default=None, gt=0)
    memory: int | None = Field(default=None, ge=256)  # MiB
    gpu: str | None = None  # another than GPU names
    max_containers: int | None = Field(default=None, ge=1)
    buffer_containers: int | None = Field(default=None, ge=0)
    scaledown_window: int | None = Field(default=None, ge=2, le=3600)
    llm_ctx: int | None = Field(default=None, ge=64)
    llm_slots: int | None = Field(default=None, ge=1, le=256)

    def options(self) -> dict[str, Any]:
        """The arguments of Modal's `with_options`."""
        return self.model_dump(exclude={"llm_ctx", "llm_slots"}, exclude_none=True)

    def of(self, settings: WorkerSettings) -> WorkerSettings:
        changed = {
            "cpu_cores": self.cpu,
            "llm_threads": None if self.cpu is None else max(1, int(self.cpu)),
            "mem_mb": self.memory,
            "llm_ctx": self.llm_ctx,
            "llm_slots": self.llm_slots,
        }
        return settings.model_copy(
            update={name: value for name, value in changed.items() if value is not None}
        )


Table = Mapping[str, Overrides]


def read_table(path: Path, gpu: str | None = None) -> Table:
    """models.toml; nothing where there is no such file. Raises ModelFileError, with a line for each fault."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        table = TypeAdapter(dict[str, Overrides]).validate_python(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}." for fault in faults]
        raise ModelFileError("\n".join(lines)) from error
    except ValueError as error:  # of TOML, or not UTF-8
        raise ModelFileError(f"{path} is not TOML: {error}.") from error
    for name, overrides in table.items():
        if overrides.gpu and not gpu:
            raise ModelFileError(
                f"{path}: {name}.gpu: workers are built for CPUs. Set GPU={overrides.gpu} for the deployment."
            )
    return table


@dataclass(frozen=True, slots=True)
class Served:
    """A model and its workers: `slots` requests fit into one at a time, `most_running` into all."""

    info: ModelInfo
    slots: int
    most_running: int
    most_under_way: int
    options: Mapping[str, Any]


class Catalog:
    """The models below `folder`, MODEL_PATH's first.

    `settings` and `max_containers` are those of workers without overrides.
    """

    def __init__(
        self,
        folder: Path,
        settings: WorkerSettings,
        table: Table,
        max_containers: int,
        on_gpu: bool = False,
    ) -> None:
        self._folder, self._settings, self._table = folder, settings, table
        self._max_containers, self._on_gpu = max_containers, on_gpu
        self._headers: dict[tuple[Path, int, int], Header] = {}  # by path, size and time of change

    def settings_of(self, name: str) -> WorkerSettings:
        """The settings of the worker for the model that clients call `name`."""
        settings = self._settings
        if name != settings.served_name:
            path = models_in(self._folder).get(name, self._folder / f"{name}.gguf")
            settings = settings.model_copy(update={"model_path": path, "model_name": name})
        return self._table.get(name, Overrides()).of(settings)

    def scan(self) -> dict[str, Served]:
        """What is there now, by name. Reads the headers of new files."""
        found = {self._settings.served_name: self._settings.model_path}
        for name, path in models_in(self._folder).items():
            if path != self._settings.model_path:
                found.setdefault(name, path)
        return {name: self._served(name, path) for name, path in found.items()}

    def _served(self, name: str, path: Path) -> Served:
        overrides = self._table.get(name, Overrides())
        settings = overrides.of(self._settings)
        header, created, num_bytes = self._look_at(path)
        context_length = min(settings.llm_ctx, context_length_of(header) or settings.llm_ctx)
        slots = settings.llm_slots or 1
        kind = kind_of(header)
        # A GPU's memory is not known here, and embeddings need none by the request.
        if (token_bytes := token_bytes_of(header)) and not self._on_gpu and kind == "chat":
            cache_mb = settings.llm_cache_mb if settings.llm_prefix_cache else 0
            slot_bytes = token_bytes * context_length
            slots, _ = divide_memory(num_bytes, slot_bytes, settings.mem_mb, slots, cache_mb)
        info = ModelInfo(name, created, context_length, kind)
        running = slots * (overrides.max_containers or self._max_containers)
        return Served(info, slots, running, running + settings.llm_max_waiting, overrides.options())

    def _look_at(self, path: Path) -> tuple[Header, int, int]:
        """A file's header, time and size. Of one that is missing: its worker says so to whoever asks."""
        try:
            stat = path.stat()
            key = (path, stat.st_size, stat.st_mtime_ns)
            if key not in self._headers:
                self._headers[key] = read_header(path)
            return self._headers[key], int(stat.st_mtime), size_of(path)
        except OSError:
            return {}, 0, 0


class Shelf:
    """A catalogue kept up to date in the background: nobody who asks waits for it, or for its failures."""

    SECONDS_BETWEEN_LOOKS = 60.0

    def __init__(self, catalog: Catalog, reload: Callable[[], Awaitable[object]]) -> None:
        self._catalog, self._reload = catalog, reload
        self._served: dict[str, Served] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def models(self) -> list[ModelInfo]:
        """A file that was put on the Volume shows after about a minute."""
        if self._served is None:
            self._served = await asyncio.to_thread(self._catalog.scan)
        if self._refreshing is None:  # after the scan: Modal reloads no Volume of which files are open
            self._refreshing = asyncio.ensure_future(self._refresh_for_ever())
        return [served.info for served in self._served.values()]

    def served(self, name: str) -> Served | None:
        """As of the last look."""
        return (self._served or {}).get(name)

    def most_under_way(self, name: str) -> int:
        served = self.served(name)
        return served.most_under_way if served else 0

    def most_running(self) -> int:
        """Requests that run at a time when every worker is there that there may be."""
        return max((served.most_running for served in (self._served or {}).values()), default=1)

    async def _refresh_for_ever(self) -> None:
        """First at once: a container sees the Volume as it was when it started, or older."""
        while True:
            try:
                await self._reload()
                self._served = await asyncio.to_thread(self._catalog.scan)
            except Exception as error:
                log.warning("cannot look at the Volume, trying again: %r", error)
            await asyncio.sleep(self.SECONDS_BETWEEN_LOOKS)
