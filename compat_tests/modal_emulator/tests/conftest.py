"""One emulator for each file of the emulator's own tests, with the sample app in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from modal.client import Client

from compat_tests.modal_emulator import ModalEmulator
from compat_tests.modal_emulator.tests.sample import SAMPLE_APP, furnish


@pytest.fixture(scope="module")
def emulator() -> Iterator[ModalEmulator]:
    with ModalEmulator() as emulator:
        furnish(emulator)
        emulator.deploy(SAMPLE_APP)
        yield emulator


@pytest.fixture(scope="module")
def client(emulator: ModalEmulator) -> Iterator[Client]:
    with emulator.client() as client:
        yield client
