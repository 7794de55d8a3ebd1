"""app.py, really deployed, with a model on its Volume: into the local Modal control plane."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compat_tests.modal_emulator.control_plane import Ports
from compat_tests.modal_emulator.emulator import ContainerInfo, ModalEmulator
from compat_tests.server import Server

APP = "link-cloud-llamacpp"
ROOT = Path(__file__).parent.parent
WORKER, GATEWAY = "LlamaWorker.*", "gateway"


@dataclass
class Deployment:
    emulator: ModalEmulator
    server: Server

    def workers(self) -> list[ContainerInfo]:
        return self.emulator.containers(WORKER)


@contextlib.contextmanager
def deployed(model: Path | None, ports: Ports | None = None, /, **environment: str) -> Iterator[Deployment]:
    """`modal deploy app.py` with `model` as models/model_q4_0.gguf on the Volume, open to anyone."""
    with ModalEmulator(ports=ports) as emulator:
        if model is not None:
            place = emulator.volume_path("gguf-models") / "models" / "model_q4_0.gguf"
            place.parent.mkdir(parents=True)
            place.hardlink_to(model)
        # Several containers share this machine's few cores; one thread each, and none waits for another.
        settings = {"ALLOW_ANONYMOUS": "true", "LLM_THREADS": "1", **environment}
        emulator.deploy("app.py", env=settings, cwd=ROOT)
        yield Deployment(emulator, Server(f"{emulator.url(APP, GATEWAY)}/v1"))
