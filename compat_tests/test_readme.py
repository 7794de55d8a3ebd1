"""The README's snippets, run as they stand against the real server, and its settings table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from pydantic_settings import BaseSettings

import app
from compat_tests.server import ServerProcess
from gateway.settings import GatewaySettings
from worker.settings import WorkerSettings

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str, containing: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [block for block in found if containing in block]


def here(snippet: str, server: ServerProcess) -> str:
    """The snippet with the test server's address instead of the default one."""
    return snippet.replace("http://127.0.0.1:8000", server.url)


def test_the_sdk_snippet_streams_an_answer(server_process: ServerProcess) -> None:
    (snippet,) = blocks("python", "from openai")
    command = [sys.executable, "-c", here(snippet, server_process)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_the_curl_lines_are_answered(server_process: ServerProcess) -> None:
    (block,) = blocks("sh", "/generate")
    commands = [part.replace("curl", "curl -sS", 1) for part in here(block, server_process).split("\n\n")]
    answers = [
        subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)
        for command in commands
    ]
    assert [answer.stderr for answer in answers] == ["", ""]
    chat, generate = (json.loads(answer.stdout) for answer in answers)
    assert chat["object"] == "chat.completion"
    assert set(generate) == {"response"}


def test_every_setting_is_in_the_table() -> None:
    kinds: list[type[BaseSettings]] = [WorkerSettings, GatewaySettings, app.Deployment]
    settings = [name.upper() for kind in kinds for name in kind.model_fields]
    assert [name for name in settings if f"| `{name}` |" not in README] == []
