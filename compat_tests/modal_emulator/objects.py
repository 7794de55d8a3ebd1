"""What the control plane remembers: apps, their functions, the calls made and the inputs in flight."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from modal_proto import api_pb2

_counter = itertools.count(1)


def new_id(prefix: str) -> str:
    """An id of modal's form; short and rising, since people read them in logs."""
    return f"{prefix}-{next(_counter):05d}"


class Signal:
    """Wakes everyone who waits right now. It holds no state: a waiter checks its condition again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout: float | None = None) -> None:
        waiting = self._event.wait()  # bound to the present event before anything can be awaited
        if timeout is None:
            await waiting
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, timeout)


@dataclass(slots=True)
class App:
    """An app; `version` counts its publications, and 0 means that none has happened yet."""

    app_id: str
    name: str
    state: int
    version: int = 0
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)

    @property
    def ephemeral(self) -> bool:
        return self.state == api_pb2.APP_STATE_EPHEMERAL


@dataclass(slots=True)
class FunctionRecord:
    """A function, a class service (`Name.*`), or either of them bound to parameters and options.

    A deployment writes `staged`; publishing the app makes it `definition`. A bound function has neither:
    it follows its `base`, so that a redeploy reaches it.
    """

    function_id: str
    app: App
    handle: api_pb2.FunctionHandleMetadata
    staged: api_pb2.Function | None = None
    definition: api_pb2.Function | None = None
    base: FunctionRecord | None = None
    serialized_params: bytes = b""
    options: api_pb2.FunctionOptions = field(default_factory=api_pb2.FunctionOptions)

    @property
    def name(self) -> str:
        return self.handle.function_name

    @property
    def is_published(self) -> bool:
        return self._source is not None

    def published(self) -> api_pb2.Function:
        """The definition that a container started now runs."""
        if self._source is None:
            raise LookupError(f"{self.name} has not been published")
        definition = api_pb2.Function()
        definition.CopyFrom(self._source)
        _apply_options(definition, self.options)
        return definition

    @property
    def _source(self) -> api_pb2.Function | None:
        return self.base.definition if self.base else self.definition


def _apply_options(definition: api_pb2.Function, options: api_pb2.FunctionOptions) -> None:
    """Overlay what `Cls.with_options` and `.with_concurrency` set."""
    if options.replace_secret_ids:
        definition.secret_ids[:] = options.secret_ids
    if options.replace_volume_mounts:
        del definition.volume_mounts[:]
        definition.volume_mounts.extend(options.volume_mounts)
    for option in ("timeout_secs", "max_concurrent_inputs", "target_concurrent_inputs"):
        if options.HasField(option):
            setattr(definition, option, getattr(options, option))
    if options.HasField("resources"):
        definition.resources.MergeFrom(options.resources)
    if options.HasField("retry_policy"):
        definition.retry_policy.CopyFrom(options.retry_policy)
    autoscaler = definition.autoscaler_settings
    if options.HasField("concurrency_limit"):
        autoscaler.max_containers = options.concurrency_limit
    if options.HasField("buffer_containers"):
        autoscaler.buffer_containers = options.buffer_containers
    if options.HasField("task_idle_timeout_secs"):
        autoscaler.scaledown_window = options.task_idle_timeout_secs


class ChunkStream:
    """An append-only stream of numbered chunks (from 1) that readers may join late.

    A number once written stays: a generator that is restarted after a crash repeats its first numbers,
    and what its reader has already seen is not sent again.
    """

    def __init__(self, changed: Signal) -> None:
        self._chunks: list[api_pb2.DataChunk] = []
        self._changed = changed

    def __len__(self) -> int:
        return len(self._chunks)

    def put(self, chunks: Sequence[api_pb2.DataChunk]) -> None:
        for chunk in chunks:
            if chunk.index == len(self._chunks) + 1:
                self._chunks.append(chunk)
        self._changed.notify()

    def append(self, data: bytes, data_format: api_pb2.DataFormat.ValueType) -> None:
        self.put([api_pb2.DataChunk(index=len(self) + 1, data=data, data_format=data_format)])

    def after(self, last_index: int) -> list[api_pb2.DataChunk]:
        return self._chunks[last_index:]

    async def read(self, last_index: int = 0) -> AsyncIterator[api_pb2.DataChunk]:
        """Every chunk after `last_index`, for as long as the reader listens."""
        while True:
            for chunk in self.after(last_index):
                yield chunk
                last_index = chunk.index
            if last_index == len(self._chunks):
                await self._changed.wait()


@dataclass(slots=True)
class Call:
    """One `.remote`, `.remote_gen`, `.spawn`, `.map` or web request: its inputs and what came out.

    `changed` wakes those who wait for an output or for data on the way out.
    """

    call_id: str
    function: FunctionRecord
    is_web: bool = False
    invocation_type: api_pb2.FunctionCallInvocationType.ValueType = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)
    data_in: ChunkStream = field(init=False)
    data_out: ChunkStream = field(init=False)

    def __post_init__(self) -> None:
        self.data_in, self.data_out = ChunkStream(Signal()), ChunkStream(self.changed)

    @property
    def num_unfinished(self) -> int:
        return sum(not item.done for item in self.inputs.values())


@dataclass(slots=True, eq=False)
class Input:
    """One input. `attempt` is what modal calls its retry count: outputs of an older attempt are dropped."""

    input_id: str
    call: Call
    index: int
    payload: api_pb2.FunctionInput
    attempt: int = 0
    num_lost: int = 0
    num_retries: int = 0
    done: bool = False
    timeout: asyncio.TimerHandle | None = None

    def finish(self, result: api_pb2.GenericResult, data_format: int = 0, task_id: str = "") -> None:
        """Publish the final result; whoever waits for the call's outputs wakes up."""
        self.done = True
        if self.timeout:
            self.timeout.cancel()
        self.call.outputs.append(
            api_pb2.FunctionGetOutputsItem(
                result=result,
                idx=self.index,
                input_id=self.input_id,
                data_format=api_pb2.DataFormat.ValueType(data_format),
                task_id=task_id,
                output_created_at=time.time(),
                retry_count=self.attempt,
            )
        )
        self.call.changed.notify()
