"""The servers that the suite runs against: a process, containers on Modal, or wherever BASE_URL points."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from compat_tests.deployment import deployed
from compat_tests.server import Server, ServerProcess, running_server
from worker.models.default import default_model

SETTINGS = {"LLM_CTX": "2048", "LLM_SLOTS": "4", "ALLOW_GRAMMAR": "true"}
TARGETS = ["deployed"] if os.environ.get("BASE_URL") else ["process", "modal"]


@pytest.fixture(scope="session", params=TARGETS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The default model behind the API; every test that takes this runs against each target."""
    match request.param:
        case "process":
            yield request.getfixturevalue("server_process")
        case "modal":
            with deployed(default_model(), MODEL_NAME="SmolLM2-135M-Instruct", **SETTINGS) as deployment:
                yield deployment.server
        case _:
            yield Server(os.environ["BASE_URL"], os.environ.get("API_KEY", "unused"))


@pytest.fixture(scope="session")
def server_process() -> Iterator[ServerProcess]:
    with running_server(**SETTINGS) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture
def model(server: Server) -> str:
    return server.model()


@pytest.fixture(scope="session")
def default_model_file() -> Path:
    return default_model()
