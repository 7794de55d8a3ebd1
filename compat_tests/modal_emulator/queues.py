"""Queues (in memory, one per partition) and dicts."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from grpclib import Status
from modal_proto import api_pb2

from compat_tests.modal_emulator.objects import Signal, new_id
from compat_tests.modal_emulator.rpc import Caller, RPCError, not_found
from compat_tests.modal_emulator.storage import ANONYMOUS, CREATING, refuse_existing

MAX_PARTITION_ITEMS = 5000
LONGEST_POLL = 50.0


@dataclass(slots=True)
class Partition:
    values: deque[bytes] = field(default_factory=deque)
    changed: Signal = field(default_factory=Signal)


@dataclass(slots=True)
class QueueService:
    """`partition_ttl` is accepted and ignored: no test lives for its 24 hours."""

    queues: dict[str, defaultdict[bytes, Partition]] = field(default_factory=dict)

    def _partition(self, queue_id: str, key: bytes) -> Partition:
        if queue_id not in self.queues:
            raise not_found(f"Queue {queue_id}")
        return self.queues[queue_id][key]

    async def QueueGetOrCreate(
        self, request: api_pb2.QueueGetOrCreateRequest, _: Caller
    ) -> api_pb2.QueueGetOrCreateResponse:
        queue_id = _get_or_create("Queue", "qu", request, self.queues)
        self.queues.setdefault(queue_id, defaultdict(Partition))
        metadata = api_pb2.QueueMetadata(name=request.deployment_name)
        return api_pb2.QueueGetOrCreateResponse(queue_id=queue_id, metadata=metadata)

    async def QueueHeartbeat(self, request: api_pb2.QueueHeartbeatRequest, _: Caller) -> None:
        return None

    async def QueuePut(self, request: api_pb2.QueuePutRequest, _: Caller) -> None:
        partition = self._partition(request.queue_id, request.partition_key)
        if len(partition.values) + len(request.values) > MAX_PARTITION_ITEMS:
            raise RPCError(Status.RESOURCE_EXHAUSTED, "The queue's partition is full")
        partition.values.extend(request.values)
        partition.changed.notify()

    async def QueueGet(self, request: api_pb2.QueueGetRequest, _: Caller) -> api_pb2.QueueGetResponse:
        partition = self._partition(request.queue_id, request.partition_key)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(request.timeout, LONGEST_POLL)
        while not partition.values and (remaining := deadline - loop.time()) > 0:
            await partition.changed.wait(remaining)
        count = min(request.n_values, len(partition.values))
        return api_pb2.QueueGetResponse(values=[partition.values.popleft() for _ in range(count)])

    async def QueueLen(self, request: api_pb2.QueueLenRequest, _: Caller) -> api_pb2.QueueLenResponse:
        if not request.total:
            length = len(self._partition(request.queue_id, request.partition_key).values)
        else:
            length = sum(len(each.values) for each in self.queues[request.queue_id].values())
        return api_pb2.QueueLenResponse(len=length)

    async def QueueClear(self, request: api_pb2.QueueClearRequest, _: Caller) -> None:
        if request.all_partitions:
            self.queues[request.queue_id].clear()
        else:
            self._partition(request.queue_id, request.partition_key).values.clear()


@dataclass(slots=True)
class DictService:
    dicts: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    async def DictGetOrCreate(
        self, request: api_pb2.DictGetOrCreateRequest, _: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        dict_id = _get_or_create("Dict", "di", request, self.dicts)
        self.dicts.setdefault(dict_id, {each.key: each.value for each in request.data})
        metadata = api_pb2.DictMetadata(name=request.deployment_name)
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=metadata)

    async def DictHeartbeat(self, request: api_pb2.DictHeartbeatRequest, _: Caller) -> None:
        return None

    async def DictGet(self, request: api_pb2.DictGetRequest, _: Caller) -> api_pb2.DictGetResponse:
        value = self.dicts[request.dict_id].get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    async def DictContains(
        self, request: api_pb2.DictContainsRequest, _: Caller
    ) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self.dicts[request.dict_id])

    async def DictLen(self, request: api_pb2.DictLenRequest, _: Caller) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=len(self.dicts[request.dict_id]))

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest, _: Caller) -> api_pb2.DictUpdateResponse:
        entries = self.dicts[request.dict_id]
        created = False
        for update in request.updates:
            created = created or update.key not in entries
            if not (request.if_not_exists and update.key in entries):
                entries[update.key] = update.value
        return api_pb2.DictUpdateResponse(created=created)

    async def DictPop(self, request: api_pb2.DictPopRequest, _: Caller) -> api_pb2.DictPopResponse:
        value = self.dicts[request.dict_id].pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictClear(self, request: api_pb2.DictClearRequest, _: Caller) -> None:
        self.dicts[request.dict_id].clear()

    async def DictContents(
        self, request: api_pb2.DictContentsRequest, _: Caller
    ) -> AsyncIterator[api_pb2.DictEntry]:
        for key, value in self.dicts[request.dict_id].items():
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")


def _get_or_create(
    kind: str,
    prefix: str,
    request: api_pb2.QueueGetOrCreateRequest | api_pb2.DictGetOrCreateRequest,
    existing: dict[str, defaultdict[bytes, Partition]] | dict[str, dict[bytes, bytes]],
) -> str:
    """The id under which the object of that name is, or may now be put."""
    name, creation_type = request.deployment_name, request.object_creation_type
    if creation_type in ANONYMOUS or not name:
        return new_id(prefix)
    object_id = f"{prefix}-{name}"
    if object_id in existing:
        refuse_existing(kind, name, creation_type)
    elif creation_type not in CREATING:
        raise not_found(f"{kind} {name!r}")
    return object_id
