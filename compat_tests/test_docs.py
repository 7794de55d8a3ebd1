"""The snippets of the README and of docs/, run as they stand against the real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from compat_tests.deployment import ROOT
from compat_tests.server import ServerProcess
from compat_tests.snippets import PAGES, README, blocks, deployment

PROGRAMS = [snippet for page in PAGES for snippet in blocks(page, "python")]
REQUESTS = [
    request
    for page in PAGES
    for block in blocks(page, "sh")
    if block.startswith("curl")
    for request in block.split("\n\n")
]


def run(command: list[str], server: ServerProcess) -> str:
    """What the command prints, with the test server's address instead of the default one."""
    here = [part.replace("http://127.0.0.1:8000", server.url) for part in command]
    done = subprocess.run(here, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_an_answer(program: str, server_process: ServerProcess) -> None:
    assert run([sys.executable, "-c", program], server_process).strip()


@pytest.mark.parametrize("request_line", REQUESTS)
def test_a_request_is_answered(request_line: str, server_process: ServerProcess) -> None:
    answer = run(["sh", "-c", request_line.replace("curl", "curl -sS --fail-with-body", 1)], server_process)
    if answer.startswith("data: "):
        assert answer.endswith("data: [DONE]\n\n")
    else:
        assert isinstance(json.loads(answer), dict)


def test_the_readme_shows_the_sdk_chat_and_generate() -> None:
    (program,) = blocks(README, "python")
    requests = [block for block in blocks(README, "sh") if block.startswith("curl")]
    assert "stream=True" in program
    assert re.findall(r"8000(\S+)", "\n".join(requests)) == ["/v1/chat/completions", "/generate"]


def test_both_pages_deploy_alike() -> None:
    assert deployment(README) == deployment(ROOT / "docs" / "modal.md")
