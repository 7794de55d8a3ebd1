"""The emulator against modal's real client and container runtime: deploying, calling, serving."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from modal.client import Client
from modal_proto import api_pb2

from compat_tests.modal_emulator import ModalEmulator, UnsupportedClientError, container
from compat_tests.modal_emulator.apps import AppService
from compat_tests.modal_emulator.calls import CallService
from compat_tests.modal_emulator.ingress import Ingress
from compat_tests.modal_emulator.objects import App, FunctionRecord
from compat_tests.modal_emulator.tests.sample import (
    GREETING,
    SAMPLE_APP,
    SECRET,
    new_partition,
    sample_queue,
    sample_worker,
)


@pytest.fixture(scope="module")
def http(emulator: ModalEmulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=emulator.url("sample", "web"), timeout=60) as http:
        yield http


# The client's version


def test_another_installed_client_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.7.0")
    with pytest.raises(UnsupportedClientError, match=r"modal 1\.6\.4.*modal 1\.7\.0"):
        ModalEmulator()


def test_a_client_of_another_version_is_refused_on_the_wire(emulator: ModalEmulator) -> None:
    other = Client(
        emulator.env["MODAL_SERVER_URL"], api_pb2.CLIENT_TYPE_CLIENT, ("ak", "as"), version="1.5.0"
    )
    with other as client, pytest.raises(modal.exception.Error, match=r"this client is modal 1\.5\.0"):
        client.hello()


# Deploying


def test_a_deployment_needs_its_secret_with_every_required_key() -> None:
    with ModalEmulator() as emulator:
        with pytest.raises(RuntimeError, match="'sample-secret' not found"):
            emulator.deploy(SAMPLE_APP)
        emulator.modal("secret", "create", "sample-secret", "OTHER=x")
        with pytest.raises(RuntimeError, match="SAMPLE_KEY"):
            emulator.deploy(SAMPLE_APP)
        emulator.modal("secret", "create", "--force", "sample-secret", "SAMPLE_KEY=by hand")
        assert emulator.deploy(SAMPLE_APP)


def test_image_commands_are_recorded(emulator: ModalEmulator) -> None:
    assert any("hello world" in each for each in emulator.image_commands("sample", "web"))


# Calling


def test_a_container_sees_its_volume_secret_and_image_environment(client: Client) -> None:
    described = sample_worker(client).describe.remote()
    assert described["greeting"] == GREETING
    assert described["key"] == SECRET["SAMPLE_KEY"]
    assert described["env"] == "hello world"


def test_remote_gen_yields_every_value_in_order(client: Client) -> None:
    assert list(sample_worker(client).count.remote_gen(200)) == list(range(200))


def test_remote_gen_works_from_async_code(client: Client) -> None:
    async def collect() -> list[int]:
        return [number async for number in sample_worker(client).count.remote_gen.aio(20)]

    assert asyncio.run(collect()) == list(range(20))


def test_an_exception_arrives_as_what_was_raised(client: Client) -> None:
    with pytest.raises(ValueError, match="as asked"):
        sample_worker(client).fail.remote()


def test_a_failing_function_is_retried_as_its_policy_says(client: Client) -> None:
    function = modal.Function.from_name("sample", "fails_once", client=client)
    assert function.remote(new_partition()) == 2


def test_map_returns_every_result(client: Client) -> None:
    function = modal.Function.from_name("sample", "double", client=client)
    assert list(function.map(range(5))) == [0, 2, 4, 6, 8]


def test_a_payload_too_large_for_a_message_goes_through_the_blob_store(client: Client) -> None:
    function = modal.Function.from_name("sample", "double", client=client)
    assert len(function.remote(b"x" * 3_000_000)) == 6_000_000


def test_unknown_names_are_not_found(client: Client) -> None:
    with pytest.raises(modal.exception.NotFoundError):
        modal.Function.from_name("sample", "no_such_function", client=client).hydrate()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Cls.from_name("no-such-app", "Worker", client=client).hydrate()


# Cancelling


def test_cancelling_a_running_input_reaches_its_coroutine(client: Client) -> None:
    queue, partition = sample_queue(client), new_partition()
    call = sample_worker(client).cancelled_or.spawn(partition)
    assert queue.get(partition=f"{partition}-ready", timeout=60) == "started"
    call.cancel()
    assert queue.get(partition=f"{partition}-ready", timeout=60) == "cancelled"
    with pytest.raises(modal.exception.Error):
        call.get(timeout=60)


# Serving


def test_a_request_reaches_the_worker_and_returns(http: httpx.Client) -> None:
    assert http.get("/describe").json()["greeting"] == GREETING


def test_a_request_keeps_its_query_its_headers_and_a_large_body(http: httpx.Client) -> None:
    answer = http.post("/echo?a=1&b=%20x", headers={"X-Custom": "kept"}, content=b"x" * 3_000_000).json()
    assert answer["size"] == 3_000_000
    assert answer["query"] == {"a": "1", "b": " x"}
    assert answer["headers"]["x-custom"] == "kept"


def test_a_status_and_headers_come_back(http: httpx.Client) -> None:
    assert http.get("/no-such-route").status_code == 404
    with http.stream("GET", "/count?up_to=1") as response:
        assert response.headers["content-type"].startswith("text/event-stream")


def test_events_arrive_while_the_worker_is_still_at_it(http: httpx.Client, client: Client) -> None:
    """Each word is said only after the one before has arrived: nothing on the way may hold one back."""
    queue, partition = sample_queue(client), new_partition()
    with http.stream("GET", f"/words?partition={partition}") as response:
        lines = (line for line in response.iter_lines() if line)
        for word in ("one", "two", "three"):
            queue.put(word, partition=partition)
            assert next(lines) == f"data: {word}"
        queue.put("end", partition=partition)
        assert list(lines) == []


def test_a_client_that_hangs_up_is_noticed_by_the_app(http: httpx.Client, client: Client) -> None:
    partition = new_partition()
    with http.stream("GET", f"/until-disconnect?partition={partition}") as response:
        assert next(response.iter_lines()) == "data: again"
    assert sample_queue(client).get(partition=partition, timeout=60) == "disconnected"


def test_a_web_container_lost_in_mid_stream_cuts_the_answer_short(
    emulator: ModalEmulator, http: httpx.Client, client: Client
) -> None:
    queue, partition = sample_queue(client), new_partition()
    with http.stream("GET", f"/words?partition={partition}") as response:
        queue.put("one", partition=partition)
        lines = response.iter_lines()
        assert next(lines) == "data: one"
        [container] = emulator.containers("web")
        emulator.kill(container.task_id)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    queue.put("end", partition=partition)
    assert http.get("/describe").status_code == 200


# modal run, and by hand


def test_modal_run_prints_the_result_and_the_containers_output(emulator: ModalEmulator) -> None:
    output = emulator.modal("run", f"{SAMPLE_APP}::main", "--up-to", "4")
    assert "squares are [0, 1, 4, 9]" in output
    assert "squares up to 4" in output
    assert emulator.containers("squares") == []


def test_run_by_hand_it_says_how_to_deploy_and_ends_with_its_containers() -> None:
    with by_hand() as (process, described):
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert described["key"] == "by hand"
    assert process.returncode == 0
    assert "worker entered" in output
    with pytest.raises(ProcessLookupError):
        os.kill(described["pid"], 0)


@pytest.mark.skipif(not container.LIFELINE, reason="setpriv is not installed")
def test_containers_do_not_outlive_an_emulator_that_is_killed() -> None:
    with by_hand() as (process, described):
        handle = os.pidfd_open(described["pid"])
        process.kill()
        process.communicate(timeout=60)
    ended, _, _ = select.select([handle], [], [], 60)
    os.close(handle)
    assert ended


@contextlib.contextmanager
def by_hand() -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The emulator as a process, the sample app deployed by its instructions, and an answer of its worker."""
    command = [sys.executable, "-m", "compat_tests.modal_emulator", "--port", "0", "--web-port", "0"]
    command += ["--secret", "sample-secret:SAMPLE_KEY=by hand"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        environment, volumes = dict(os.environ), Path()
        for line in process.stdout:
            if line.startswith("  export "):
                name, _, value = line.removeprefix("  export ").strip().partition("=")
                environment[name] = value
            if line.startswith("Volumes are directories under "):
                volumes = Path(line.removeprefix("Volumes are directories under ").strip())
            if line.startswith("Ctrl-C"):
                break
        (volumes / "sample-data").mkdir()
        (volumes / "sample-data" / "greeting.txt").write_text(GREETING)
        deploy = [sys.executable, "-m", "modal", "deploy", str(SAMPLE_APP)]
        deployed = subprocess.run(deploy, env=environment, capture_output=True, text=True, check=True)
        [url] = [word for word in deployed.stdout.split() if word.startswith("http://127.0.0.1:")]
        try:
            yield process, httpx.get(f"{url}/describe", timeout=60).json()
        finally:
            process.kill()


def test_who_asks_while_the_app_is_being_deployed_is_told_so() -> None:
    app = App("ap-1", "app", api_pb2.APP_STATE_DEPLOYED)
    handle = api_pb2.FunctionHandleMetadata(function_name="gateway")
    apps = AppService(None, None, None, functions={"fu-1": FunctionRecord("fu-1", app, handle)})  # type: ignore[arg-type]
    ingress = Ingress(CallService(apps, None), None, "fu-1")  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(ingress)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get("http://test/health")

    answer = asyncio.run(ask())
    assert answer.status_code == 404
    assert "still being deployed" in answer.text
