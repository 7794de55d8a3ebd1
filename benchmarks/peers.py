"""The servers under test. All get the same model file, threads and context for each sequence, and flash
attention on.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks import llama_server
from benchmarks.peer import Peer, Setup, environment

# All that llama_cpp.server needs beyond this project's own packages.
STOCK_REQUIREMENT = "starlette-context==0.3.6"


def _this_python() -> Path:
    return Path(sys.executable)


def _ours_command(python: Path, setup: Setup, port: int) -> list[str]:
    """BENCH_OURS replaces the command, to measure another build; `{port}` in it is filled in."""
    custom = os.environ.get("BENCH_OURS", f"{python} -m gateway.cli serve --host 127.0.0.1 --port {{port}}")
    return shlex.split(custom.replace("{port}", str(port)))


def _ours_env(setup: Setup, port: int) -> dict[str, str]:
    env = {
        "MODEL_PATH": str(setup.model),
        "CPU_CORES": str(setup.threads),
        "LLM_THREADS": str(setup.threads),
        "LLM_CTX": str(setup.context),
        "PORT": str(port),
    }
    optional = {
        "LLM_SLOTS": setup.slots,
        "LLM_CACHE_DIR": setup.cache_dir,
        "CHAT_TEMPLATE": setup.chat_template,
        "GENERATE_MAX_TOKENS": setup.generate_tokens,
    }
    return env | {name: str(value) for name, value in optional.items() if value}


def _ours_info(python: Path) -> list[str]:
    code = (
        "from worker.llama.cpu_variants import load_cpu_variant, llama_cpp;"
        "load_cpu_variant(); print(llama_cpp.llama_print_system_info().decode())"
    )
    return [str(python), "-c", code]


def _stock_install() -> Path:
    """An environment that borrows this one's packages: the very same compiled library."""
    python = environment("stock", STOCK_REQUIREMENT)
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    purelib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (Path(purelib) / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def _stock_command(python: Path, setup: Setup, port: int) -> list[str]:
    """Better than its defaults, which use half the cores, no flash attention, and keep all logits."""
    command = f"{python} -m llama_cpp.server --model {setup.model} --port {port} --n_ctx {setup.context}"
    threads = f"--n_threads {setup.threads} --n_threads_batch {setup.threads}"
    # By default a new request cuts the running one off; then nobody's answer would be complete.
    return shlex.split(
        f"{command} {threads} --flash_attn true --logits_all false --interrupt_requests false --verbose false"
    )


def _stock_info(python: Path) -> list[str]:
    return [str(python), "-c", "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"]


def _modal_command(python: Path, setup: Setup, port: int) -> list[str]:
    command = f"{python} -m benchmarks.modal_server --model {setup.model} --port {port}"
    return shlex.split(f"{command} --threads {setup.threads} --context {setup.context}")


SAME_BUILD = "llama-cpp-python as installed here"
OURS = Peer("ours", _this_python, _ours_command, _ours_info, SAME_BUILD, _ours_env, ours=True)
STOCK = Peer("stock", _stock_install, _stock_command, _stock_info, SAME_BUILD)
MODAL = Peer("modal", _this_python, _modal_command, _ours_info, SAME_BUILD, ours=True)
LLAMA_SERVER = llama_server.best()
PEERS = {peer.name: peer for peer in (OURS, STOCK, LLAMA_SERVER, llama_server.WHEEL, MODAL)}
