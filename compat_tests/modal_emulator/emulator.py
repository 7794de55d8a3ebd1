"""`ModalEmulator`: the control plane in a thread of its own, with a plain interface for tests."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from modal.client import Client
from modal_proto import api_pb2

from compat_tests.modal_emulator.control_plane import ControlPlane, Ports
from compat_tests.modal_emulator.rpc import check_client_version

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container as it was a moment ago. `ready`: it has asked for inputs. `pid` 0: not started yet."""

    task_id: str
    function: str
    version: int
    pid: int
    num_inputs: int
    ready: bool
    draining: bool
    memory_mb: int  # reserved


class ModalEmulator:
    """A Modal control plane on free ports of this machine.

        with ModalEmulator() as emulator:
            emulator.secret("api-keys", {"API_KEY": "secret"})
            emulator.deploy("app.py")
            httpx.get(emulator.url("my-app", "web"))

    Closing it ends every container with its exit hooks, and kills what does not end in time.
    """

    def __init__(
        self,
        root: Path | None = None,
        ports: Ports | None = None,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        check_client_version()
        self._temporary = root is None
        self.root = root or Path(tempfile.mkdtemp(prefix="modal-emulator-"))
        self.log_path = self.root / "containers.log"
        self.root.mkdir(parents=True, exist_ok=True)
        self.log_path.touch()
        self._ports = ports or Ports()
        self._echo = echo
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modal-emulator", daemon=True)
        self._closed = False

    # Life

    def start(self) -> Self:
        self._thread.start()
        self._plane = self._run(self._start())
        atexit.register(self.close)
        return self

    async def _start(self) -> ControlPlane:
        plane = ControlPlane(self.root, self.log_path, self._ports, self._echo)
        await plane.start()
        return plane

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._run(self._plane.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # Clients

    @property
    def env(self) -> dict[str, str]:
        """The variables that point a modal client here, and away from anybody's real account."""
        return {
            "MODAL_SERVER_URL": self._plane.server_url,
            "MODAL_TOKEN_ID": "ak-emulator",
            "MODAL_TOKEN_SECRET": "as-emulator",
            "MODAL_CONFIG_PATH": str(self.root / "no-such-config.toml"),
            "MODAL_ENVIRONMENT": "main",
        }

    def modal(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> str:
        """Run `modal ...`; its output, or an error with it."""
        process = subprocess.run(
            [sys.executable, "-m", "modal", *arguments],
            env={**os.environ, **self.env, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if process.returncode:
            raise RuntimeError(f"modal {' '.join(arguments)} failed:\n{process.stdout}")
        return process.stdout

    def deploy(self, path: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        return self.modal("deploy", str(path), env=env, cwd=cwd)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client inside this process, to hand to `modal.Cls.from_name(..., client=)` and the like."""
        credentials = (self.env["MODAL_TOKEN_ID"], self.env["MODAL_TOKEN_SECRET"])
        with Client(self._plane.server_url, api_pb2.CLIENT_TYPE_CLIENT, credentials) as client:
            yield client

    def url(self, app: str, function: str, method: str = "") -> str:
        """The base URL of a web function of a deployed app."""

        async def find() -> str:
            deployed = self._plane.apps.deployed(app)
            handle = self._plane.apps.function(deployed.function_ids[function]).handle
            return handle.method_handle_metadata[method].web_url if method else handle.web_url

        return self._run(find())

    def web_urls(self) -> dict[str, str]:
        """All web functions by `app.function`."""

        async def collect() -> dict[str, str]:
            return {
                f"{function.app.name}.{function.name}": function.handle.web_url
                for function in self._plane.apps.functions.values()
                if function.handle.web_url
            }

        return self._run(collect())

    # Containers

    def containers(self, function: str = "") -> list[ContainerInfo]:
        """The containers that exist, oldest first; of one function (`Name.*` for a class) or of all."""
        return self._run(self._containers(function))

    async def _containers(self, function: str = "") -> list[ContainerInfo]:
        return [
            ContainerInfo(
                each.task_id,
                pool.function.name,
                each.version,
                each.process.pid if each.process else 0,
                len(each.active),
                each.ready,
                each.draining,
                pool.definition.resources.memory_mb,
            )
            for pool in self._plane.scheduler.pools.values()
            for each in pool.containers.values()
            if function in ("", pool.function.name)
        ]

    def wait_for(
        self, condition: Callable[[list[ContainerInfo]], bool], function: str = "", timeout: float = 60
    ) -> list[ContainerInfo]:
        """Block until the containers satisfy `condition`; woken by changes, not by the clock."""

        async def wait() -> list[ContainerInfo]:
            while not condition(found := await self._containers(function)):
                await self._plane.changed.wait()
            return found

        async def bounded() -> list[ContainerInfo]:
            try:
                return await asyncio.wait_for(wait(), timeout)
            except TimeoutError:
                raise TimeoutError(f"The containers are {await self._containers(function)}") from None

        return self._run(bounded())

    def kill(self, task_id: str) -> None:
        """kill -9, as when a machine is lost: what ran there is rescheduled."""

        async def kill() -> None:
            self._plane.scheduler.container(task_id).kill()

        self._run(kill())

    def log(self, task_id: str = "") -> str:
        """What containers printed, or one of them."""
        lines = self.log_path.read_text().splitlines()
        return "\n".join(line for line in lines if line.startswith(f"[{task_id}"))

    # What apps find

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        async def create() -> None:
            self._plane.secrets.create(name, dict(values))

        self._run(create())

    def volume_path(self, name: str) -> Path:
        return self._plane.volumes.path(name)

    def definition(self, app: str, function: str) -> api_pb2.Function:
        """What a deployed function was declared with: resources, volumes, secrets, concurrency."""

        async def find() -> api_pb2.Function:
            deployed = self._plane.apps.deployed(app)
            return self._plane.apps.function(deployed.function_ids[function]).published()

        return self._run(find())

    def image_commands(self, app: str, function: str) -> list[str]:
        """What the image of a deployed function would have run and installed."""
        image_id = self.definition(app, function).image_id

        async def find() -> list[str]:
            return self._plane.images.commands(image_id)

        return self._run(find())

    def environment(self, app: str, function: str) -> dict[str, str]:
        """What a deployed function's image and secrets put into its containers' environment."""
        definition = self.definition(app, function)

        async def find() -> dict[str, str]:
            return self._plane.environment(definition)

        return self._run(find())
