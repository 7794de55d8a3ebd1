"""Puts the services together, and knows how a container of a function is to be started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grpclib.server import Server
from modal_proto import api_pb2

from compat_tests.modal_emulator import mounts, rpc, web
from compat_tests.modal_emulator.apps import AppService
from compat_tests.modal_emulator.blobs import BlobService, BlobStore
from compat_tests.modal_emulator.calls import CallService
from compat_tests.modal_emulator.container import Container, LaunchSpec
from compat_tests.modal_emulator.images import ImageService
from compat_tests.modal_emulator.ingress import Ingress
from compat_tests.modal_emulator.logs import LogService
from compat_tests.modal_emulator.objects import App, FunctionRecord, Signal
from compat_tests.modal_emulator.queues import DictService, QueueService
from compat_tests.modal_emulator.runtime import RuntimeService
from compat_tests.modal_emulator.scheduler import Scheduler
from compat_tests.modal_emulator.storage import EnvironmentService, SecretService
from compat_tests.modal_emulator.volumes import VolumeService

log = logging.getLogger("modal_emulator")
SOURCE_ROOT = "root"  # where Modal puts an app's source, without the leading slash


@dataclass(frozen=True, slots=True)
class Ports:
    """0 means any free port. Web functions take consecutive ports from `web` on, if it is given."""

    grpc: int = 0
    web: int = 0


class ControlPlane:
    """Everything that lives in the emulator's event loop."""

    def __init__(self, root: Path, log_path: Path, ports: Ports, echo: Callable[[str], None] | None) -> None:
        for name in ("blobs", "volumes", "containers", "source"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._root = root
        self._ports = ports
        self._specs: dict[tuple[str, int], LaunchSpec] = {}
        self._web: dict[tuple[str, str], web.HttpServer] = {}
        self._web_lock = asyncio.Lock()
        self._links: set[str] = set()
        self.changed = Signal()
        self.logs = LogService(log_path, echo)
        self.blobs = BlobService(BlobStore(root / "blobs"))
        self.volumes = VolumeService(root / "volumes", self.blobs.store)
        self.secrets = SecretService()
        self.images = ImageService()
        self.scheduler = Scheduler(self._launch, self.changed, on_app_done=self._app_done)
        self.apps = AppService(self._open_web, self.volumes.describe, self.scheduler)
        self.calls = CallService(self.apps, self.scheduler)
        self.server_url = ""

    async def start(self) -> None:
        runtime = RuntimeService(self.scheduler, self.calls)
        services = [self.apps, self.calls, runtime, self.blobs, self.volumes, self.secrets, self.images]
        self._grpc: Server = rpc.serve(
            [*services, QueueService(), DictService(), EnvironmentService(), self.logs]
        )
        self._blob_server = await web.HttpServer.start(self.blobs.store)
        self.blobs.store.base_url = self._blob_server.url
        listener = web.listen(self._ports.grpc)
        await self._grpc.start(sock=listener)
        self.server_url = f"http://{web.HOST}:{listener.getsockname()[1]}"

    async def stop(self) -> None:
        await self.scheduler.shutdown()
        await asyncio.gather(*(server.stop() for server in self._web.values()), self._blob_server.stop())
        self._grpc.close()
        await self._grpc.wait_closed()
        mounts.unlink(self._root, self._links)

    # Web functions

    async def _open_web(self, function: FunctionRecord, method_name: str) -> str:
        """A port for each web function, so that its URL works in any client as it is."""
        async with self._web_lock:
            key = (function.function_id, method_name)
            if key not in self._web:
                port = self._ports.web + len(self._web) if self._ports.web else 0
                self._web[key] = await web.HttpServer.start(Ingress(self.calls, self.blobs.store, *key), port)
            return self._web[key].url

    def _app_done(self, app: App) -> None:
        self.logs.finish(app.app_id)

    # Containers

    async def _launch(self, container: Container) -> int:
        function = container.function
        key = (function.function_id, container.version)
        if key not in self._specs:
            self._specs[key] = self._launch_spec(function, container.version)
        log.info("%s starts for %s", container.task_id, function.name)

        def write_line(line: str) -> None:
            self.logs.write(function.app.app_id, function.function_id, container.task_id, line)

        scratch = self._root / "containers" / container.task_id
        return await container.run(self._specs[key], self.server_url, scratch, write_line)

    def _launch_spec(self, function: FunctionRecord, version: int) -> LaunchSpec:
        definition = function.published()
        tree = self._root / "source" / f"{function.function_id}-{version}"
        (tree / SOURCE_ROOT).mkdir(parents=True, exist_ok=True)
        for mount_id, destination in self.images.copied_mounts(definition.image_id):
            self.blobs.unpack(mount_id, tree, destination)
        for mount_id in definition.mount_ids:
            self.blobs.unpack(mount_id, tree)
            self._warn_of_files_elsewhere(function, mount_id)
        volumes = [self._mount(each) for each in definition.volume_mounts]
        self._links |= {each.target for each in volumes}
        arguments = api_pb2.ContainerArguments(
            function_id=function.function_id,
            app_id=function.app.app_id,
            function_def=definition,
            serialized_params=function.serialized_params,
            environment_name="main",
            app_layout=self.apps.layout(function.app),
        )
        return LaunchSpec(arguments, self.environment(definition), tree / SOURCE_ROOT, volumes)

    def environment(self, definition: api_pb2.Function) -> dict[str, str]:
        """What the image and the secrets put into a container's environment."""
        environment = self.images.environment(definition.image_id)
        for secret_id in definition.secret_ids:
            environment |= self.secrets.values[secret_id]
        return environment

    def _mount(self, mount: api_pb2.VolumeMount) -> mounts.Mount:
        source = self.volumes.directory(mount.volume_id) / mount.sub_path.lstrip("/")
        source.mkdir(parents=True, exist_ok=True)
        return mounts.Mount(source, mount.mount_path, mount.read_only)

    def _warn_of_files_elsewhere(self, function: FunctionRecord, mount_id: str) -> None:
        for file in self.blobs.mounts.get(mount_id, []):
            if not file.filename.startswith(f"/{SOURCE_ROOT}/"):
                log.warning("%s: containers do not see the mounted file %s", function.name, file.filename)
