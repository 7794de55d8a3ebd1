"""llama.cpp is compiled as the worker needs it, with progress to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.llama import build

LOG = [
    "Building wheels for collected packages: llama-cpp-python\n",
    "  [1/4] /usr/bin/c++ -c a.cpp\n",
    "  a.cpp:1: warning: so what\n",
    "  [2/4] /usr/bin/c++ -c b.cpp\n",
    "  [3/4] /usr/bin/c++ -c c.cpp\n",
    "  [4/4] link\n",
]


def test_progress_counts_files(capsys: pytest.CaptureFixture[str]) -> None:
    build.show(LOG)
    assert capsys.readouterr().out.splitlines() == [
        f"compiling llama.cpp: {n} of 4 files" for n in (1, 2, 3, 4)
    ]


def test_a_long_build_prints_no_more_than_a_dozen_lines(capsys: pytest.CaptureFixture[str]) -> None:
    build.show(f"[{n}/600] c++\n" for n in range(1, 601))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12
    assert lines[-1] == "compiling llama.cpp: 600 of 600 files"


def test_the_end_of_the_log_is_kept_for_when_it_fails() -> None:
    assert list(build.show(LOG))[-1] == "  [4/4] link\n"
    assert len(build.show(str(n) for n in range(10_000))) < 1000


def test_the_clients_own_flags_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    assert build.cmake_args().endswith("llama_cpp.cmake -DGGML_CUDA=ON")


def test_pip_is_told_what_is_pinned(tmp_path: Path) -> None:
    pinned = build.requirement()
    assert pinned.startswith("llama-cpp-python==")
    assert "--hash=sha256:" in pinned
    assert pinned.count("==") == 1
    (tmp_path / "constraints.txt").write_text("numpy==2.0\n")
    with pytest.raises(RuntimeError, match="does not pin"):
        build.requirement(tmp_path / "constraints.txt")


def test_it_runs_before_anything_is_installed() -> None:
    """`make` runs it in an empty environment: it may import the standard library only."""
    code = "import sys, worker.llama.build; sys.exit('numpy' in sys.modules or 'llama_cpp' in sys.modules)"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=build.CONSTRAINTS.parent)
