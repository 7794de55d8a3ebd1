"""llama.cpp's own server, twice: compiled from the sources and flags of our library, and a wheel's.

The sdist of llama-cpp-python holds all of llama.cpp, so a build of its server from there has the same code
and the same instructions as ours: what is left of a difference is the servers'. It takes a C++ compiler and
some minutes, once. Without a compiler there is the wheel xllamacpp, whose baseline (AVX2) flatters whoever is
compiled for this very machine.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks import INSTALLED
from benchmarks.machine import cpu_model
from benchmarks.peer import Peer, Setup, environment
from worker.llama.build import requirement

BUILD_TOOLS = ("cmake==4.1.2", "ninja==1.13.0")
WHEEL_REQUIREMENT = "xllamacpp==2026.10.11549"
# As pip compiles llama-cpp-python: a native release build with shared libraries. Of the rest only the server,
# without its page, which would be downloaded.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def flags() -> list[str]:
    """CMAKE_ARGS, which pip's build of our library heeds, counts here too."""
    return [*FLAGS, *shlex.split(os.environ.get("CMAKE_ARGS", ""))]


def build() -> Path:
    """The compiled server; compiles it when sources, flags, compiler or processor are new."""
    compiler = subprocess.run(["c++", "--version"], check=True, capture_output=True, text=True).stdout
    key = hashlib.sha256("\n".join([requirement(), *flags(), compiler, cpu_model()]).encode()).hexdigest()
    folder = INSTALLED / f"llama-server-{key[:12]}"
    if not folder.exists():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        print("compiling llama-server, once: about 10 minutes on 2 cores", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=INSTALLED) as scratch:
            _compile(_sources(Path(scratch)), Path(scratch) / "build").replace(folder)
    return folder / "llama-server"


def _sources(scratch: Path) -> Path:
    """llama.cpp as the sdist of llama-cpp-python vendors it; pip checks the hash."""
    pinned = scratch / "requirement.txt"
    pinned.write_text(requirement())
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*pip, "--require-hashes", "-r", str(pinned), "-d", str(scratch)], check=True)
    [sdist] = scratch.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    return next(scratch.glob("*/vendor/llama.cpp"))


def _compile(sources: Path, build: Path) -> Path:
    """The folder with the server and its libraries, which find each other wherever it is moved."""
    tools = environment("build-tools", *BUILD_TOOLS).parent
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-G", "Ninja", "-S", str(sources), "-B", str(build), *flags()]
    subprocess.run(configure, check=True, env=env, stdout=subprocess.DEVNULL)
    compile = ["nice", "cmake", "--build", str(build), "--target", "llama-server"]
    subprocess.run(compile, check=True, env=env, stdout=subprocess.DEVNULL)
    return build / "bin"


def options(setup: Setup, port: int) -> list[str]:
    """Its cache of prompts in memory (--cache-ram) stays on, as by default."""
    slots = setup.slots or 1
    numbers = {
        "--port": port,
        "--threads": setup.threads,
        "--parallel": slots,
        "--ctx-size": setup.kv_tokens or setup.context * slots,
    }
    layout = "--kv-unified" if setup.kv_unified else "--no-kv-unified"
    pairs = [text for name, number in numbers.items() for text in (name, str(number))]
    template = ["--chat-template-file", str(setup.chat_template)] if setup.chat_template else []
    return ["--model", str(setup.model), *pairs, layout, *template]


def _native_command(program: Path, setup: Setup, port: int) -> list[str]:
    quiet = ["--log-verbosity", "2"]  # warnings only: a log line for every request would cost it time
    return [str(program), *options(setup, port), "--flash-attn", "on", *quiet]


def _native_info(program: Path) -> list[str]:
    code = (
        "import ctypes, sys; info = ctypes.CDLL(sys.argv[1]).llama_print_system_info;"
        "info.restype = ctypes.c_char_p; print(info().decode())"
    )
    return [sys.executable, "-c", code, str(program.with_name("libllama.so"))]


def _wheel_install() -> Path:
    return environment("xllamacpp", WHEEL_REQUIREMENT)


def _wheel_command(python: Path, setup: Setup, port: int) -> list[str]:
    return [str(python), str(Path(__file__).with_name("llama_server_wheel.py")), *options(setup, port)]


def _wheel_info(python: Path) -> list[str]:
    return [str(python), "-c", "import xllamacpp; print(xllamacpp.get_system_info())"]


NATIVE = Peer("llama-server", build, _native_command, _native_info, "the same sources and flags")
WHEEL = Peer(
    "llama-server-wheel", _wheel_install, _wheel_command, _wheel_info, f"the wheel {WHEEL_REQUIREMENT}"
)


def best() -> Peer:
    """The fair peer where it can be compiled."""
    return NATIVE if shutil.which("c++") else WHEEL
