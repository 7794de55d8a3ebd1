"""The sample app's surroundings, and handles of what is in it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import modal
from modal.client import Client

from compat_tests.modal_emulator.emulator import ModalEmulator

SAMPLE_APP = Path(__file__).with_name("sample_app.py")
GREETING = "hello from the volume"
SECRET = {"SAMPLE_KEY": "only the container knows"}


def furnish(emulator: ModalEmulator) -> None:
    """What the sample app expects to find before it can be deployed."""
    emulator.secret("sample-secret", SECRET)
    (emulator.volume_path("sample-data") / "greeting.txt").write_text(GREETING)


def sample_worker(client: Client, app: str = "sample") -> Any:
    return modal.Cls.from_name(app, "Worker", client=client)()


def sample_queue(client: Client) -> Any:
    return modal.Queue.from_name("sample-queue", create_if_missing=True, client=client)


def new_partition() -> str:
    """A queue partition that no other test has."""
    return uuid.uuid4().hex
