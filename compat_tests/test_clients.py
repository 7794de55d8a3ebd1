"""Other people's clients, each in an environment of its own: streams, tools, structured output, errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compat_tests.environments import node_environment, python_environment
from compat_tests.server import ServerProcess

CLIENTS = Path(__file__).parent / "clients"
pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

# Script, packages, and what it has to tell besides the common answers.
PYTHON: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "pydantic-ai": ("pydantic_ai_client.py", ("pydantic-ai-slim[openai]",), {"failure": 404}),
    "instructor": ("instructor_client.py", ("instructor",), {}),
    "langchain": (
        "langchain_client.py",
        ("langchain-openai",),
        {"tool": "get_weather", "failure": "OpenAIModelNotFoundError", "reason": {"length", "stop"}},
    ),
    "langchain-anthropic": (
        "langchain_anthropic_client.py",
        ("langchain-anthropic",),
        {
            "tool": "get_weather",
            "failure": "AnthropicModelNotFoundError",
            "reason": {"max_tokens", "end_turn"},
        },
    ),
    "litellm": (
        "litellm_client.py",
        ("litellm", "mcp"),  # which it imports without asking for it
        {
            "tool": "get_weather",
            "failure": "NotFoundError",
            "overflow": "ContextWindowExceededError",
            "reason": {"length", "stop"},
        },
    ),
}
NODE: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "openai": (
        "openai_node.mjs",
        ("openai",),
        {"tool": "get_weather", "failure": "NotFoundError", "reason": {"length", "stop"}},
    ),
    "anthropic": (
        "anthropic_node.mjs",
        ("@anthropic-ai/sdk",),
        {"tool": "get_weather", "failure": "NotFoundError", "reason": {"max_tokens", "end_turn"}},
    ),
    "ai-sdk": (
        "ai_sdk.mjs",
        ("ai", "@ai-sdk/openai-compatible"),
        {"tool": "get_weather", "failure": "AI_APICallError", "reason": {"length", "stop"}},
    ),
}


def told(command: list[str], folder: Path) -> dict[str, Any]:
    """What a client's script prints as its last line."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def check(answers: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("arguments", "structured"):
        if name in answers:
            assert isinstance(answers[name]["city"], str)
    assert "arguments" in answers
    if "text" in answers:
        assert answers["text"].strip()
        assert 0 < answers["completion_tokens"] <= 12
    for name, value in expected.items():
        assert answers[name] in (value if isinstance(value, set) else {value}), answers


@pytest.mark.parametrize("client", PYTHON)
def test_a_python_client(client: str, server_process: ServerProcess, tmp_path: Path) -> None:
    script, packages, expected = PYTHON[client]
    python = python_environment(*packages) / "python"
    model = server_process.model()
    check(told([str(python), str(CLIENTS / script), server_process.base_url, model], tmp_path), expected)


@pytest.mark.parametrize("client", NODE)
def test_a_node_client(client: str, server_process: ServerProcess) -> None:
    script, packages, expected = NODE[client]
    folder = node_environment(*packages)
    copy = folder / script  # Node looks for packages beside the script
    copy.write_text((CLIENTS / script).read_text())
    check(told(["node", str(copy), server_process.base_url, server_process.model()], folder), expected)
