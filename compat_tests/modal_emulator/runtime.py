"""What a container asks of the control plane while it lives: inputs, outputs, data streams, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from modal_proto import api_pb2

from compat_tests.modal_emulator.calls import CallService
from compat_tests.modal_emulator.container import KILL_SWITCH
from compat_tests.modal_emulator.rpc import Caller
from compat_tests.modal_emulator.scheduler import Scheduler

INPUT_POLL = 30.0
HEARTBEAT_POLL = 10.0  # the container gives up after 15 s


@dataclass(slots=True)
class RuntimeService:
    """The RPCs of the container's side; a container is known by the header it was started with."""

    scheduler: Scheduler
    calls: CallService

    async def ContainerHello(self, _request: object, caller: Caller) -> None:
        self.scheduler.container(caller.task_id)

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        """Long poll. A container asks only while it has a free slot, and one question at a time."""
        container = self.scheduler.container(caller.task_id)
        if container.draining:
            return KILL_SWITCH
        pool = self.scheduler.pool(container.function)
        poll = asyncio.get_running_loop().create_future()
        container.request = poll
        if not container.ready:
            pool.became_ready(container)
        pool.step()
        try:
            await asyncio.wait([poll], timeout=INPUT_POLL)
            return poll.result() if poll.done() else api_pb2.FunctionGetInputsResponse()
        finally:
            poll.cancel()  # nobody may be given an input through a poll that has ended

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> None:
        container = self.scheduler.container(caller.task_id)
        for output in request.outputs:
            self.scheduler.accept_output(container, output)

    async def FunctionCallPutDataOut(self, request: api_pb2.FunctionCallPutDataRequest, _: Caller) -> None:
        self.calls.call(request.function_call_id).data_out.put(request.data_chunks)

    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest, _: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        async for chunk in self.calls.call(request.function_call_id).data_in.read(request.last_index):
            yield chunk

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, _: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        """The target is for scaling out; meanwhile a container takes as many inputs as it may."""
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Tells a cancellation until the input has ended: one answer may reach a container too late."""
        container = self.scheduler.container(caller.task_id)
        if not container.cancelled & container.active.keys():
            await container.cancel_signal.wait(HEARTBEAT_POLL)
        cancelled = container.cancelled & container.active.keys()
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        event = api_pb2.CancelInputEvent(input_ids=sorted(cancelled))
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def TaskResult(self, request: api_pb2.TaskResultRequest, caller: Caller) -> None:
        """A container that failed before it could take an input says why."""
        self.scheduler.container(caller.task_id).failure = request.result

    async def ContainerStop(
        self, request: api_pb2.ContainerStopRequest, _: Caller
    ) -> api_pb2.ContainerStopResponse:
        container = self.scheduler.container(request.task_id)
        if request.graceful:
            container.drain()
        else:
            container.interrupt()
        return api_pb2.ContainerStopResponse()

    async def TaskList(self, request: api_pb2.TaskListRequest, _: Caller) -> api_pb2.TaskListResponse:
        tasks = [
            api_pb2.TaskStats(
                task_id=each.task_id, app_id=pool.function.app.app_id, enqueued_at=each.enqueued_at
            )
            for pool in self.scheduler.pools.values()
            for each in pool.containers.values()
            if request.app_id in ("", pool.function.app.app_id)
        ]
        return api_pb2.TaskListResponse(tasks=tasks)
