"""Calling a function from outside: calls, their inputs, their outputs and their data streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from modal_proto import api_pb2

from compat_tests.modal_emulator.apps import AppService
from compat_tests.modal_emulator.objects import Call, Input, new_id
from compat_tests.modal_emulator.rpc import Caller, not_found


class Dispatcher(Protocol):
    """Where inputs go to be run, and where they are called back from."""

    def submit(self, item: Input) -> None: ...

    def cancel(self, item: Input, terminate_container: bool = False) -> None: ...


@dataclass(slots=True)
class CallService:
    """The RPCs a caller makes. A call is kept for as long as the emulator lives: late readers find it."""

    apps: AppService
    dispatcher: Dispatcher
    calls: dict[str, Call] = field(default_factory=dict)

    def call(self, call_id: str) -> Call:
        if call_id not in self.calls:
            raise not_found(f"Function call {call_id}")
        return self.calls[call_id]

    def open_call(
        self,
        function_id: str,
        *,
        is_web: bool = False,
        invocation_type: api_pb2.FunctionCallInvocationType.ValueType = (
            api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
        ),
    ) -> Call:
        record = self.apps.function(function_id)
        call = Call(new_id("fc"), record, is_web=is_web, invocation_type=invocation_type)
        self.calls[call.call_id] = call
        return call

    def put_input(self, call: Call, payload: api_pb2.FunctionInput, index: int = 0) -> Input:
        item = Input(new_id("in"), call, index, payload)
        call.inputs[item.input_id] = item
        self.dispatcher.submit(item)
        return item

    def cancel(self, call: Call, terminate_containers: bool = False) -> None:
        for item in list(call.inputs.values()):
            if not item.done:
                self.dispatcher.cancel(item, terminate_containers)

    def _put_all(
        self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        answers = []
        for each in items:
            item = self.put_input(call, each.input, each.idx)
            answer = api_pb2.FunctionPutInputsResponseItem(
                idx=item.index, input_id=item.input_id, input_jwt=item.input_id
            )
            answers.append(answer)
        return answers

    async def FunctionMap(
        self, request: api_pb2.FunctionMapRequest, _: Caller
    ) -> api_pb2.FunctionMapResponse:
        call = self.open_call(request.function_id, invocation_type=request.function_call_invocation_type)
        inputs = self._put_all(call, request.pipelined_inputs)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            function_call_jwt=call.call_id,
            pipelined_inputs=inputs,
            retry_policy=call.function.published().retry_policy,
            sync_client_retries_enabled=False,  # the scheduler retries, as it must for spawned calls
            max_inputs_outstanding=1000,
        )

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest, _: Caller
    ) -> api_pb2.FunctionPutInputsResponse:
        inputs = self._put_all(self.call(request.function_call_id), request.inputs)
        return api_pb2.FunctionPutInputsResponse(inputs=inputs)

    async def FunctionFinishInputs(self, request: api_pb2.FunctionFinishInputsRequest, _: Caller) -> None:
        return None

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest, _: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        """Long poll for outputs past `last_entry_id` (the count of outputs already seen)."""
        call = self.call(request.function_call_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout
        seen = int(request.last_entry_id.split("-")[0] or 0)
        while True:
            outputs = [each for each in call.outputs[seen:] if _wanted(each.idx, request)]
            remaining = deadline - loop.time()
            if outputs or remaining <= 0:
                return api_pb2.FunctionGetOutputsResponse(
                    outputs=outputs,
                    idxs=[each.idx for each in outputs],
                    last_entry_id=f"{len(call.outputs)}-0",
                    num_unfinished_inputs=call.num_unfinished,
                )
            await call.changed.wait(remaining)

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest, _: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """Open until the reader hangs up: were it to end, the client would ask again in a busy loop."""
        async for chunk in self.call(request.function_call_id).data_out.read(request.last_index):
            yield chunk

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest, _: Caller
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self.call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.call_id, num_inputs=len(call.inputs))

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, _: Caller) -> None:
        self.cancel(self.call(request.function_call_id), request.terminate_containers)


def _wanted(index: int, request: api_pb2.FunctionGetOutputsRequest) -> bool:
    first = request.start_idx if request.HasField("start_idx") else index
    last = request.end_idx if request.HasField("end_idx") else index
    return first <= index <= last
