"""The servers under test: how each is installed, started, asked whether it is ready, and measured.

A peer that is not of this project has an environment of its own. All get the same model file, threads and
context for each sequence, with flash attention on. Only one runs at a time.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
VENVS = ROOT / ".cache" / "bench-venvs"
START_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What every server is given; `context` is in tokens for each sequence."""

    model: Path
    threads: int = 2
    context: int = 1024
    slots: int = 64
    kv_unified: bool = False


Command = Callable[[Path, Setup, int], list[str]]  # python of the peer's environment, setup, port


@dataclass(frozen=True, slots=True)
class Peer:
    """`requirements` go into an environment of its own; without any, it runs from this project in ours."""

    name: str
    requirements: tuple[str, ...]
    command: Command
    env: Callable[[Setup, int], dict[str, str]] = lambda setup, port: {}


def _ours_command(python: Path, setup: Setup, port: int) -> list[str]:
    """BENCH_OURS replaces the command, to measure another build; `{port}` in it is filled in."""
    custom = os.environ.get("BENCH_OURS", f"{python} -m gateway.cli serve --host 127.0.0.1 --port {{port}}")
    return shlex.split(custom.replace("{port}", str(port)))


def _ours_env(setup: Setup, port: int) -> dict[str, str]:
    """Slots are left to the server: choosing them well is its own task."""
    return {
        "MODEL_PATH": str(setup.model),
        "CPU_CORES": str(setup.threads),
        "LLM_THREADS": str(setup.threads),
        "LLM_CTX": str(setup.context),
        "PORT": str(port),
    }


def _stock_command(python: Path, setup: Setup, port: int) -> list[str]:
    """Better than its defaults, which use half the cores, no flash attention, and keep all logits."""
    command = f"{python} -m llama_cpp.server --model {setup.model} --port {port} --n_ctx {setup.context}"
    threads = f"--n_threads {setup.threads} --n_threads_batch {setup.threads}"
    # By default a new request cuts the running one off; then nobody's answer would be complete.
    return shlex.split(
        f"{command} {threads} --flash_attn true --logits_all false --interrupt_requests false --verbose false"
    )


def _llama_server_command(python: Path, setup: Setup, port: int) -> list[str]:
    script = Path(__file__).with_name("llama_server.py")
    command = f"{python} {script} --model {setup.model} --port {port} --threads {setup.threads}"
    layout = "--kv-unified" if setup.kv_unified else ""
    return shlex.split(f"{command} --context {setup.context} --slots {setup.slots} {layout}")


def _modal_command(python: Path, setup: Setup, port: int) -> list[str]:
    command = f"{python} -m benchmarks.modal_server --model {setup.model} --port {port}"
    return shlex.split(f"{command} --threads {setup.threads} --context {setup.context}")


OURS = Peer("ours", (), _ours_command, _ours_env)
STOCK = Peer("stock", ("llama-cpp-python[server]==0.3.36",), _stock_command)
LLAMA_SERVER = Peer("llama-server", ("xllamacpp==2026.10.11549",), _llama_server_command)
MODAL = Peer("modal", (), _modal_command)
PEERS = {peer.name: peer for peer in (OURS, STOCK, LLAMA_SERVER, MODAL)}


def environment(peer: Peer) -> Path:
    """The Python of the peer's own virtual environment, made on first use; ours is the one we run in."""
    if not peer.requirements:
        return Path(sys.executable)
    folder = VENVS / peer.name
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *peer.requirements], check=True)
        complete.touch()
    return python


@dataclass(frozen=True, slots=True)
class Server:
    """A running peer."""

    port: int
    model_id: str
    pid: int


@contextmanager
def running(peer: Peer, setup: Setup) -> Iterator[Server]:
    """Start the peer on a free port, wait until it answers, and stop it at the end."""
    python = environment(peer)
    port = _free_port()
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{peer.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(python, setup, port),
            stdout=output,
            stderr=output,
            cwd=CACHE if peer.requirements else ROOT,
            env={**ENVIRONMENT, **peer.env(setup, port)},
            process_group=0,
        )
    try:
        yield Server(port, _wait_until_ready(process, port, log), process.pid)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """The served model's id, as soon as `/v1/models` has it."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as response:
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
