"""The emulator's containers: how many there are, what becomes of their inputs, how they end."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import modal
import pytest
from modal.client import Client
from modal_proto import api_pb2

from compat_tests.modal_emulator import ContainerInfo, ModalEmulator
from compat_tests.modal_emulator.apps import AppService
from compat_tests.modal_emulator.objects import App, FunctionRecord
from compat_tests.modal_emulator.rpc import Caller
from compat_tests.modal_emulator.tests.sample import (
    SAMPLE_APP,
    furnish,
    new_partition,
    sample_queue,
    sample_worker,
)

WORKER = "Worker.*"


def hold(client: Client, partition: str, count: int = 1, app: str = "sample") -> list[Any]:
    """Calls that keep a slot each until `release`."""
    return [sample_worker(client, app).hold.spawn(partition) for _ in range(count)]


def wait_until_held(client: Client, partition: str, count: int = 1) -> None:
    for _ in range(count):
        sample_queue(client).get(partition=f"{partition}-ready", timeout=60)


def release(client: Client, partition: str, count: int = 1) -> None:
    sample_queue(client).put_many(["go"] * count, partition=partition)


def pid_of(held: str) -> int:
    return int(held.split()[1])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def inputs_per_container(containers: list[ContainerInfo]) -> list[int]:
    return sorted(each.num_inputs for each in containers)


def test_containers_are_added_up_to_the_maximum_and_removed_when_idle(
    emulator: ModalEmulator, client: Client
) -> None:
    """Two inputs a container, three containers at most: the seventh input waits for a slot."""
    partition = new_partition()
    calls = hold(client, partition, 7)
    wait_until_held(client, partition, 6)
    containers = emulator.containers(WORKER)
    assert inputs_per_container(containers) == [2, 2, 2]
    release(client, partition, 7)
    served_by = {pid_of(call.get(timeout=60)) for call in calls}
    assert served_by == {each.pid for each in containers}

    emulator.wait_for(lambda found: not found, WORKER)
    left = (emulator.volume_path("sample-data") / "left.txt").read_text().split()
    assert served_by <= set(map(int, left)), "every container ran its exit hook"


def test_the_inputs_of_a_killed_container_run_elsewhere(emulator: ModalEmulator, client: Client) -> None:
    partition = new_partition()
    [call] = hold(client, partition)
    wait_until_held(client, partition)
    [victim] = [each for each in emulator.containers(WORKER) if each.num_inputs]
    emulator.kill(victim.task_id)
    wait_until_held(client, partition)
    release(client, partition)
    assert pid_of(call.get(timeout=60)) != victim.pid
    assert not is_running(victim.pid)


def test_a_container_that_retires_finishes_its_inputs_and_is_replaced(
    emulator: ModalEmulator, client: Client
) -> None:
    """Its second slot is free, and still what comes next goes to another."""
    partition = new_partition()
    [call] = hold(client, partition)
    wait_until_held(client, partition)
    emulator.wait_for(lambda found: len(found) == 1, WORKER)  # others, of earlier tests, are idle and go
    retired = sample_worker(client).retire.remote()
    assert sample_worker(client).describe.remote()["pid"] != retired
    assert is_running(retired)
    release(client, partition)
    assert pid_of(call.get(timeout=60)) == retired
    emulator.wait_for(lambda found: retired not in {each.pid for each in found}, WORKER)


def test_a_pending_input_can_be_cancelled(emulator: ModalEmulator, client: Client) -> None:
    """It ends at once, and never takes a slot: what was queued behind it is served."""
    partition = new_partition()
    running = hold(client, partition, 6)
    wait_until_held(client, partition, 6)
    [cancelled, served] = hold(client, partition, 2)
    cancelled.cancel()
    with pytest.raises(modal.exception.Error, match="ancelled"):
        cancelled.get(timeout=60)
    release(client, partition, 7)
    for call in (*running, served):
        assert call.get(timeout=60).startswith("go")


def test_a_redeploy_serves_at_once_and_lets_running_inputs_finish() -> None:
    with ModalEmulator() as emulator, emulator.client() as client:
        furnish(emulator)
        emulator.deploy(SAMPLE_APP)
        url = emulator.url("sample", "web")
        partition = new_partition()
        [call] = hold(client, partition)
        wait_until_held(client, partition)
        [old] = emulator.containers(WORKER)

        emulator.deploy(SAMPLE_APP, env={"SAMPLE_VERSION": "2"})
        assert emulator.url("sample", "web") == url
        found = emulator.wait_for(
            lambda found: any(each.version == 2 and each.ready for each in found), WORKER
        )
        assert [each.task_id for each in found if each.draining] == [old.task_id]
        described = sample_worker(client).describe.remote()
        assert described["version"] == "2"
        assert is_running(old.pid), "it still has an input"

        release(client, partition)
        assert pid_of(call.get(timeout=60)) == old.pid
        emulator.wait_for(lambda found: old.task_id not in {each.task_id for each in found}, WORKER)


def test_a_definition_takes_effect_only_when_its_app_is_published() -> None:
    """A deployment that fails half-way must leave what runs, and what starts meanwhile, alone."""

    class Fleet:
        def published(self, app: App, functions: list[FunctionRecord]) -> None: ...

        async def stop_app(self, app: App) -> None: ...

    async def no_web(function: FunctionRecord, method: str) -> str:
        return ""

    async def deploy(service: AppService, timeout: int, publish: bool) -> int:
        app_id = next(iter(service.apps), "")
        if not app_id:
            app_id = (await service.AppCreate(api_pb2.AppCreateRequest(description="app"), Caller())).app_id
        existing = service.apps[app_id].function_ids.get("f", "")
        precreate = api_pb2.FunctionPrecreateRequest(
            app_id=app_id, function_name="f", existing_function_id=existing
        )
        function_id = (await service.FunctionPrecreate(precreate, Caller())).function_id
        create = api_pb2.FunctionCreateRequest(
            app_id=app_id, existing_function_id=function_id, function=api_pb2.Function(timeout_secs=timeout)
        )
        await service.FunctionCreate(create, Caller())
        if publish:
            layout = api_pb2.AppPublishRequest(app_id=app_id, function_ids={"f": function_id})
            await service.AppPublish(layout, Caller())
        return service.function(function_id).published().timeout_secs

    async def scenario() -> None:
        service = AppService(no_web, lambda object_id: api_pb2.Object(object_id=object_id), Fleet())
        assert await deploy(service, 1, publish=True) == 1
        assert await deploy(service, 2, publish=False) == 1
        assert await deploy(service, 3, publish=True) == 3

    asyncio.run(scenario())


def test_min_containers_start_without_a_request_and_are_replaced() -> None:
    with ModalEmulator() as emulator:
        furnish(emulator)
        emulator.deploy(SAMPLE_APP, env={"SAMPLE_MIN_CONTAINERS": "1"})
        [first] = emulator.wait_for(lambda found: all(each.ready for each in found), "web")
        emulator.kill(first.task_id)
        [second] = emulator.wait_for(
            lambda found: any(each.ready and each.task_id != first.task_id for each in found), "web"
        )
    assert not is_running(first.pid)
    assert not is_running(second.pid), "closing the emulator ends every container"


def test_a_container_that_cannot_start_fails_its_callers_with_its_own_error() -> None:
    with ModalEmulator() as emulator, emulator.client() as client:
        furnish(emulator)
        (emulator.volume_path("sample-data") / "greeting.txt").unlink()
        emulator.deploy(SAMPLE_APP)
        with pytest.raises(FileNotFoundError, match=r"greeting\.txt"):
            sample_worker(client).describe.remote()
        assert "FileNotFoundError" in emulator.log()


def test_closing_ends_containers_that_are_busy() -> None:
    with ModalEmulator() as emulator, emulator.client() as client:
        furnish(emulator)
        emulator.deploy(SAMPLE_APP)
        partition = new_partition()
        hold(client, partition)
        wait_until_held(client, partition)
        [busy] = emulator.containers(WORKER)
    assert not is_running(busy.pid)
