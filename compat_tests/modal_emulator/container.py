"""A container: a process of modal's own entrypoint, with the environment that it expects."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modal_proto import api_pb2

from compat_tests.modal_emulator import mounts
from compat_tests.modal_emulator.objects import FunctionRecord, Input, Signal
from compat_tests.modal_emulator.rpc import TASK_HEADER

# From the host only what a process cannot do without: a container must not see a developer's variables.
INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONWARNINGS")
# Should the emulator be killed itself, its containers must not stay behind (Linux only).
LIFELINE = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
LONGEST_LINE = 1024 * 1024
CANCEL_GRACE = 30.0  # seconds

log = logging.getLogger("modal_emulator")


@dataclass(slots=True)
class LaunchSpec:
    """What one version of a function runs with; shared by all its containers."""

    arguments: api_pb2.ContainerArguments
    environment: dict[str, str]
    source: Path
    mounts: list[mounts.Mount]


@dataclass(slots=True, eq=False)
class Container:
    """A container's process and what runs in it. The scheduler owns it; only its own exit ends it."""

    task_id: str
    function: FunctionRecord
    version: int
    enqueued_at: float
    max_inputs: int
    active: dict[str, Input] = field(default_factory=dict)
    request: asyncio.Future[api_pb2.FunctionGetInputsResponse] | None = None
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    draining: bool = False
    stopped: bool = False
    idle_timer: asyncio.TimerHandle | None = None
    failure: api_pb2.GenericResult | None = None
    cancelled: set[str] = field(default_factory=set)
    cancel_signal: Signal = field(default_factory=Signal)
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waits_for_input(self) -> bool:
        return self.request is not None and not self.request.done()

    def has_room(self) -> bool:
        return not self.draining and self.waits_for_input and len(self.active) < self.max_inputs

    def give(self, item: Input) -> None:
        """Hand an input to the FunctionGetInputs that waits for one."""
        assert self.request is not None
        self.active[item.input_id] = item
        given = api_pb2.FunctionGetInputsItem(
            input_id=item.input_id,
            input=item.payload,
            function_call_id=item.call.call_id,
            function_call_invocation_type=item.call.invocation_type,
            retry_count=item.attempt,
        )
        self.request.set_result(api_pb2.FunctionGetInputsResponse(inputs=[given]))

    def drain(self) -> None:
        """Take no more inputs, finish those that run, then run the exit hooks and end."""
        self.draining = True
        if self.waits_for_input:
            assert self.request is not None
            self.request.set_result(KILL_SWITCH)

    def cancel_input(self, item: Input) -> None:
        """Tell the container; if the input still runs after `CANCEL_GRACE`, the container is killed."""
        self.cancelled.add(item.input_id)
        self.cancel_signal.notify()
        asyncio.get_running_loop().call_later(CANCEL_GRACE, self._kill_if_running, item)

    def _kill_if_running(self, item: Input) -> None:
        if self.active.get(item.input_id) is item:
            log.warning("%s ignores the cancellation of %s: killed", self.task_id, item.input_id)
            self.kill()

    def interrupt(self) -> None:
        """What Modal sends a container that must go now: SIGINT, whereupon it still runs its exit hooks."""
        self.draining = True
        self.stopped = True
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the whole process group: nothing the container started survives it."""
        self.stopped = True
        self._send(signal.SIGKILL, group=True)

    def _send(self, number: signal.Signals, group: bool = False) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    async def run(
        self, spec: LaunchSpec, server_url: str, scratch: Path, on_line: Callable[[str], None]
    ) -> int:
        """Start the process, pass on what it prints, and return its exit code."""
        scratch.mkdir(parents=True)
        (scratch / "root").mkdir()
        arguments = api_pb2.ContainerArguments()
        arguments.CopyFrom(spec.arguments)
        arguments.task_id = self.task_id
        arguments_path = scratch / "arguments.pb"
        arguments_path.write_bytes(arguments.SerializeToString())
        command = [*LIFELINE, sys.executable, "-m", "modal._container_entrypoint"]
        try:
            self.process = await asyncio.create_subprocess_exec(
                *mounts.wrap(command, spec.mounts, scratch / "root"),
                cwd=spec.source,
                env=self._environment(spec, server_url, arguments_path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=LONGEST_LINE,
            )
            if self.stopped:  # while it was being started
                self.kill()
            assert self.process.stdout is not None
            async for line in self.process.stdout:
                on_line(line.decode(errors="replace").rstrip("\n"))
            return await self.process.wait()
        finally:
            self.exited.set()

    def _environment(self, spec: LaunchSpec, server_url: str, arguments_path: Path) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "HOME": str(arguments_path.parent),
            "PYTHONPATH": str(spec.source),
            "PYTHONUNBUFFERED": "1",
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": server_url,
            "MODAL_TASK_ID": self.task_id,
            "MODAL_IMAGE_ID": spec.arguments.function_def.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_EMULATOR",
            "MODAL_REGION": "local",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments_path),
            "MODAL_CONFIG_PATH": str(arguments_path.parent / "no-such-config.toml"),
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{self.task_id}",
            **spec.environment,
        }


KILL_SWITCH = api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
