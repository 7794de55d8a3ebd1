"""The load test as users run it: Locust, from its own environment, against the real server."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.load_test import LOCUST
from compat_tests.environments import python_environment
from compat_tests.server import ServerProcess

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def test_locusts_users_are_answered_and_report_first_tokens(
    server_process: ServerProcess, tmp_path: Path
) -> None:
    locust = python_environment(LOCUST) / "locust"
    command = [str(locust), "-f", "benchmarks/locustfile.py", "--host", server_process.url]
    size = ["--users", "4", "--spawn-rate", "4", "--run-time", "15s"]
    done = subprocess.run(
        [*command, *size, "--headless", "--csv", str(tmp_path / "load"), "ChatUser", "ConversationUser"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MAX_TOKENS": "4"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr  # Locust's exit code tells failures
    rows = list(csv.DictReader((tmp_path / "load_stats.csv").read_text().splitlines()))
    first = {row["Name"] for row in rows if row["Type"] == "TTFT" and int(row["Request Count"])}
    assert first == {"chat (ChatUser)", "chat (ConversationUser)"}
