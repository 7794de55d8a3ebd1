"""What a server under test is: how it is installed and started, and which instructions its build uses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ENVIRONMENT, INSTALLED, ROOT

# What llama.cpp's system_info tells beside instruction sets.
NOT_INSTRUCTIONS = {"LLAMAFILE", "OPENMP", "REPACK", "ACCELERATE", "KLEIDIAI"}


@dataclass(frozen=True, slots=True)
class Setup:
    """What every server is given; `context` is in tokens for each sequence.

    `slots`: sequences at a time; None leaves them to the server. `kv_unified` and `kv_tokens` are for
    llama-server: one pool of KV for all slots, and its size where it is not `context` for each.
    `cache_dir`: where ours keeps prefixes across restarts. `chat_template`: instead of the model's own.
    `generate_tokens`: after which an answer of ours on /generate ends.
    """

    model: Path
    threads: int = 2
    context: int = 1024
    slots: int | None = None
    kv_unified: bool = False
    kv_tokens: int | None = None
    cache_dir: Path | None = None
    chat_template: Path | None = None
    generate_tokens: int | None = None

    @property
    def label(self) -> str:
        """What tuning chooses, in words."""
        pool = f" of {self.kv_tokens} tokens" if self.kv_tokens else ""
        return f"{self.slots or 'its own'} slots{' unified' * self.kv_unified}{pool}"


@dataclass(frozen=True, slots=True)
class Peer:
    """`install` makes it runnable on first use, and returns its Python or the program itself."""

    name: str
    install: Callable[[], Path]
    command: Callable[[Path, Setup, int], list[str]]  # of what `install` returned, the setup, the port
    system_info: Callable[[Path], list[str]]  # a command that prints llama.cpp's
    origin: str  # of its llama.cpp, in a few words
    env: Callable[[Setup, int], dict[str, str]] = lambda setup, port: {}
    ours: bool = False  # runs from this project's folder

    def instruction_sets(self) -> str:
        """Those that its build uses, as llama.cpp names them: `AVX AVX2 F16C FMA`."""
        command = self.system_info(self.install())
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT
        )
        return instruction_sets(printed.stdout)


def instruction_sets(system_info: str) -> str:
    found = re.findall(r"(\w+) = 1\b", system_info)
    return " ".join(name for name in found if name not in NOT_INSTRUCTIONS)


def environment(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment under .cache, made on first use and again when it has to change."""
    folder = INSTALLED / name
    python = folder / "bin" / "python"
    installed = folder / "installed"
    if not installed.exists() or installed.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        installed.write_text("\n".join(requirements))
    return python
