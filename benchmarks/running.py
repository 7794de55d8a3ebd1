"""A server under test as a process of its own: started, asked whether it is ready, and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import CACHE, ENVIRONMENT, ROOT
from benchmarks.client import KEY
from benchmarks.peer import Peer, Setup

START_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running peer."""

    port: int
    model_id: str
    pid: int


@contextmanager
def running(peer: Peer, setup: Setup) -> Iterator[Server]:
    """Start the peer on a free port, wait until it answers, and stop it at the end."""
    program = peer.install()
    port = _free_port()
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{peer.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(program, setup, port),
            stdout=output,
            stderr=output,
            cwd=ROOT if peer.ours else CACHE,
            env={**ENVIRONMENT, **peer.env(setup, port)},
            process_group=0,
        )
    try:
        yield Server(port, _wait_until_ready(process, port, log), process.pid)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """The served model's id, as soon as `/v1/models` has it."""
    headers = {"Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers=headers)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                model_id: str = json.load(response)["data"][0]["id"]
                return model_id
        except (OSError, ValueError, LookupError):
            time.sleep(0.1)
    raise RuntimeError(f"the server did not get ready; the end of {log}:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to end; kill what is left of it after ten seconds."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(10)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
