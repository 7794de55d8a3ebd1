"""The life of every container and the end of every input: loss, retries, cancellation, redeploys."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from modal_proto import api_pb2

from compat_tests.modal_emulator.container import Container
from compat_tests.modal_emulator.objects import App, FunctionRecord, Input, Signal, new_id
from compat_tests.modal_emulator.pool import Pool, result
from compat_tests.modal_emulator.rpc import not_found

log = logging.getLogger("modal_emulator")

MAX_LOSSES = 8  # of one input, with its container, before it fails
MAX_STARTUP_FAILURES = 2  # in a row, before the inputs that wait fail with the container's own error
STOP_GRACE = 10.0  # seconds for exit hooks before SIGKILL

PARAMETERS = api_pb2.ClassParameterInfo.PARAM_SERIALIZATION_FORMAT_PROTO

LaunchContainer = Callable[[Container], Awaitable[int]]


@dataclass(slots=True)
class Scheduler:
    """All pools, the life of every container, and the end of every input."""

    launch: LaunchContainer
    changed: Signal
    pools: dict[str, Pool] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    on_app_done: Callable[[App], None] = lambda app: None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def container(self, task_id: str) -> Container:
        if task_id not in self.containers:
            raise not_found(f"Container {task_id!r}")
        return self.containers[task_id]

    def pool(self, function: FunctionRecord) -> Pool:
        pool = self.pools.get(function.function_id)
        if pool is None:
            pool = Pool(function, self._launch, self.changed, definition=function.published())
            self.pools[function.function_id] = pool
        return pool

    # Containers

    def _launch(self, pool: Pool) -> Container:
        container = Container(
            new_id("ta"), pool.function, pool.function.app.version, time.time(), pool.max_inputs
        )
        pool.containers[container.task_id] = container
        self.containers[container.task_id] = container
        task = asyncio.get_running_loop().create_task(self._attend(pool, container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return container

    async def _attend(self, pool: Pool, container: Container) -> None:
        """A container's whole life; whatever way it ends, its inputs are taken care of here."""
        code: int | None = None
        try:
            code = await self.launch(container)
        except OSError as error:
            container.failure = result(api_pb2.GenericResult.GENERIC_STATUS_FAILURE, str(error))
        except RuntimeError as error:  # a mount that this machine cannot make
            log.error("%s", error)
            container.failure = result(api_pb2.GenericResult.GENERIC_STATUS_FAILURE, str(error))
        finally:
            container.exited.set()
            del pool.containers[container.task_id]
            if container.idle_timer:
                container.idle_timer.cancel()
        log.info("%s (%s) ended with code %s", container.task_id, pool.function.name, code)
        if not container.ready and not container.stopped:
            self._startup_failed(pool, container, code)
        lost, container.active = list(container.active.values()), {}
        for item in reversed(lost):
            self._lost(pool, item)
        pool.step()

    def _startup_failed(self, pool: Pool, container: Container, code: int | None) -> None:
        pool.startup_failures += 1
        pool.retry_at = time.monotonic() + min(30.0, 0.25 * 2**pool.startup_failures)
        if pool.startup_failures >= MAX_STARTUP_FAILURES:
            message = f"The container of {pool.function.name} exited with code {code} while it started"
            default = result(api_pb2.GenericResult.GENERIC_STATUS_FAILURE, message)
            pool.fail_pending(container.failure or default)

    async def stop(self, containers: list[Container], grace: float = STOP_GRACE) -> None:
        """End containers: idle ones by the kill switch, busy ones by SIGINT, stubborn ones by SIGKILL."""
        for container in containers:
            container.drain()
            container.stopped = True
            if container.active or not container.ready:
                container.interrupt()
        waits = [asyncio.create_task(each.exited.wait()) for each in containers]
        if waits:
            await asyncio.wait(waits, timeout=grace)
        for container in containers:
            container.kill()
        await asyncio.gather(*waits)

    async def shutdown(self) -> None:
        await self._close(list(self.pools.values()))
        await asyncio.gather(*self._tasks)

    async def _close(self, pools: list[Pool]) -> None:
        for pool in pools:
            pool.close()
        await self.stop([container for pool in pools for container in pool.containers.values()])

    # Apps

    def published(self, app: App, functions: list[FunctionRecord]) -> None:
        """Replace the containers of what was deployed before, and start those that are always to run."""
        known = {each.function_id for each in functions}
        for pool in [each for each in self.pools.values() if each.function.app is app]:
            if (pool.function.base or pool.function).function_id in known:
                pool.redeploy()
            else:
                for container in pool.live():
                    container.drain()
        for function in functions:
            takes_parameters = function.handle.class_parameter_info.format == PARAMETERS
            if not takes_parameters and function.published().autoscaler_settings.min_containers:
                self.pool(function).step()

    async def stop_app(self, app: App) -> None:
        await self._close([each for each in self.pools.values() if each.function.app is app])
        self.on_app_done(app)

    # Inputs

    def submit(self, item: Input) -> None:
        pool = self.pool(item.call.function)
        pool.pending.append(item)
        pool.step()

    def accept_output(self, container: Container, output: api_pb2.FunctionPutOutputsItem) -> None:
        item = container.active.get(output.input_id)
        if item is None or item.attempt != output.retry_count:
            return
        del container.active[output.input_id]
        pool = self.pools[container.function.function_id]
        failed = output.result.status == api_pb2.GenericResult.GENERIC_STATUS_FAILURE
        if item.done:
            pass
        elif failed and item.num_retries < pool.definition.retry_policy.retries:
            self._retry_later(pool, item)
        else:
            item.finish(output.result, output.data_format, container.task_id)
        pool.step()

    def _retry_later(self, pool: Pool, item: Input) -> None:
        policy = pool.definition.retry_policy
        delay = policy.initial_delay_ms / 1000 * (policy.backoff_coefficient or 1) ** item.num_retries
        item.num_retries += 1
        item.attempt += 1
        maximum = policy.max_delay_ms / 1000 or delay
        asyncio.get_running_loop().call_later(min(delay, maximum), self.submit, item)

    def _lost(self, pool: Pool, item: Input) -> None:
        """Its container is gone. It runs again elsewhere, unless part of an HTTP answer is already out."""
        if item.done:
            return
        if item.timeout:
            item.timeout.cancel()
        item.num_lost += 1
        item.attempt += 1
        if pool.closed:
            item.finish(result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The app was stopped"))
        elif item.num_lost >= MAX_LOSSES or (item.call.is_web and len(item.call.data_out)):
            status = api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE
            item.finish(result(status, "The container that ran this input was lost"))
        else:
            pool.pending.appendleft(item)

    def cancel(self, item: Input, terminate_container: bool = False) -> None:
        """An input that waits ends here; one that runs is told, and its container has `CANCEL_GRACE`."""
        pool = self.pool(item.call.function)
        if item in pool.pending:
            pool.pending.remove(item)
            item.finish(result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "Cancelled by the caller"))
            return
        for container in pool.containers.values():
            if item.input_id not in container.active:
                continue
            if terminate_container:
                item.finish(
                    result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "Cancelled by the caller")
                )
                container.kill()
            else:
                container.cancel_input(item)
