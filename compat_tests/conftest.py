from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from compat_tests.server import ServerProcess, running_server
from worker.models import default_model


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One server on the default model for all tests that do not need settings of their own."""
    with running_server(LLM_CTX="2048", LLM_SLOTS="4") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def model(server: ServerProcess) -> str:
    with server.client() as client:
        return client.models.list().data[0].id


@pytest.fixture(scope="session")
def default_model_file() -> Path:
    return default_model()
