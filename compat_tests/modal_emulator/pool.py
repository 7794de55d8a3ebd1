"""One function's containers: which input runs where, and how many containers there are.

All of it is decided in `Pool.step`, which is called after every change and never awaits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from modal_proto import api_pb2

from compat_tests.modal_emulator.container import Container
from compat_tests.modal_emulator.objects import FunctionRecord, Input, Signal

DEFAULT_SCALEDOWN_WINDOW = 60
DEFAULT_TIMEOUT = 300


def result(status: api_pb2.GenericResult.GenericStatus.ValueType, message: str) -> api_pb2.GenericResult:
    return api_pb2.GenericResult(status=status, exception=message)


@dataclass(slots=True)
class Pool:
    """The containers of one (bound) function, and the inputs that wait for one."""

    function: FunctionRecord
    launch: Callable[[Pool], Container]
    changed: Signal
    pending: deque[Input] = field(default_factory=deque)
    containers: dict[str, Container] = field(default_factory=dict)
    definition: api_pb2.Function = field(default_factory=api_pb2.Function)
    startup_failures: int = 0
    retry_at: float = 0.0
    closed: bool = False  # its app was stopped: nothing starts here any more

    @property
    def max_inputs(self) -> int:
        return self.definition.max_concurrent_inputs or 1

    @property
    def target_inputs(self) -> int:
        return self.definition.target_concurrent_inputs or self.max_inputs

    @property
    def scaling(self) -> api_pb2.AutoscalerSettings:
        return self.definition.autoscaler_settings

    def live(self) -> list[Container]:
        """Containers that may still be given inputs, now or once they have started."""
        return [each for each in self.containers.values() if not each.draining and not each.stopped]

    def wanted(self) -> int:
        """How many live containers the load asks for, within the function's limits."""
        load = len(self.pending) + sum(len(each.active) for each in self.live())
        wanted = math.ceil(load / self.target_inputs)
        if load:
            wanted += self.scaling.buffer_containers
        wanted = max(wanted, self.scaling.min_containers)
        return min(wanted, self.scaling.max_containers) if self.scaling.max_containers else wanted

    def step(self) -> None:
        self._assign()
        self._scale_out()
        for container in self.live():
            self._watch_idle(container)
        self.changed.notify()

    def _assign(self) -> None:
        """Oldest input first, to the emptiest container."""
        while self.pending:
            candidates = [each for each in self.live() if each.has_room()]
            if not candidates:
                return
            container = min(candidates, key=lambda each: len(each.active))
            if container.idle_timer:
                container.idle_timer.cancel()
                container.idle_timer = None
            item = self.pending.popleft()
            container.give(item)
            seconds = self.definition.timeout_secs or DEFAULT_TIMEOUT
            item.timeout = asyncio.get_running_loop().call_later(seconds, self._time_out, container, item)

    def _time_out(self, container: Container, item: Input) -> None:
        if container.active.get(item.input_id) is item and not item.done:
            seconds = self.definition.timeout_secs or DEFAULT_TIMEOUT
            message = f"Task's current input {item.input_id} hit its timeout of {seconds}s"
            item.finish(result(api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, message))
            container.cancel_input(item)

    def _scale_out(self) -> None:
        if self.closed:
            return
        delay = self.retry_at - time.monotonic()
        missing = self.wanted() - len(self.live())
        if missing > 0 and delay > 0:
            asyncio.get_running_loop().call_later(delay, self.step)
            return
        for _ in range(missing):
            self.launch(self)

    def _watch_idle(self, container: Container) -> None:
        if container.active or container.idle_timer or not container.ready:
            return
        window = self.scaling.scaledown_window or DEFAULT_SCALEDOWN_WINDOW
        container.idle_timer = asyncio.get_running_loop().call_later(window, self._scale_in, container)

    def _scale_in(self, container: Container) -> None:
        container.idle_timer = None
        if not container.active and len(self.live()) > self.wanted():
            container.drain()
        elif not container.draining:
            self._watch_idle(container)

    def became_ready(self, container: Container) -> None:
        """Its first request for inputs: the new version serves, so the old one may finish and go."""
        container.ready = True
        self.startup_failures = 0
        for other in self.live():
            if other.version < container.version:
                other.drain()

    def redeploy(self) -> None:
        """Idle containers of the old version go at once; busy ones when their successors are ready."""
        old = self.live()
        self.definition = self.function.published()
        in_use = self.pending or any(each.active or not each.ready for each in old)
        if old and (in_use or self.scaling.min_containers):
            for _ in range(max(1, self.wanted())):
                self.launch(self)
        else:
            for container in old:
                container.drain()
        self.step()

    def close(self) -> None:
        self.closed = True
        self.fail_pending(result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The app was stopped"))

    def fail_pending(self, failure: api_pb2.GenericResult) -> None:
        while self.pending:
            self.pending.popleft().finish(failure)
