"""Compiles llama-cpp-python with no more of llama.cpp than is needed: `python -m worker.llama.build`.

Of llama.cpp's sources two thirds serve programs, images and audio that are not used here. A wheel that pip
has compiled before is taken as it is. CMAKE_ARGS are heeded, as pip itself does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path

INCLUDE = Path(__file__).with_name("llama_cpp.cmake")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_NINJA = re.compile(r"\s*\[(\d+)/(\d+)\]")
_TOLD = 100  # lines of a failed build


def requirement(constraints: Path = CONSTRAINTS) -> str:
    """llama-cpp-python's pin with its hashes, as a line of a requirements file."""
    found = re.search(r"^llama-cpp-python==\S+( \\\n +--hash=\S+)+", constraints.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{constraints} does not pin llama-cpp-python with a hash.")
    return found[0]


def pinned_version() -> str:
    return requirement().split(maxsplit=1)[0].removeprefix("llama-cpp-python==")


def cmake_args() -> str:
    return f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={INCLUDE} {os.environ.get('CMAKE_ARGS', '')}".strip()


def install() -> int:
    """Installs it into this Python's environment, and returns pip's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirement.txt"
        pinned.write_text(requirement())
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--verbose",
            "--no-deps",
        ]
        command = [*pip, "--progress-bar", "off", "--require-hashes", "--requirement", str(pinned)]
        env = {**os.environ, "CMAKE_ARGS": cmake_args()}
        with subprocess.Popen(
            command, env=env, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            last = show(process.stdout)
    if process.returncode:
        print("".join(last), file=sys.stderr)
    return process.returncode


def show(lines: Iterable[str]) -> deque[str]:
    """Prints how many files are compiled, each tenth where there is no terminal. Returns the last lines."""
    last: deque[str] = deque(maxlen=_TOLD)
    terminal = sys.stdout.isatty()
    told = -1
    for line in lines:
        last.append(line)
        if (step := _NINJA.match(line)) is None:
            continue
        done, total = int(step[1]), int(step[2])
        if terminal:
            print(f"\rcompiling llama.cpp: {done} of {total} files", end="", flush=True)
        elif (tenth := 10 * done // total) > told:
            told = tenth
            print(f"compiling llama.cpp: {done} of {total} files", flush=True)
    if terminal and last:
        print()
    return last


if __name__ == "__main__":
    sys.exit(install())
