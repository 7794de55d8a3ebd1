"""Threads and memory never exceed what the container gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.backends.local import within_memory
from tests.worker.models.fake_hub import TINY_GGUF
from worker.llama.machine import available_cores, available_memory_mb
from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "25000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_quota_and_affinity_limit_the_cores(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == (expected or len(os.sched_getaffinity(0)))


MIB = 1 << 20
V1_LIMIT, V1_USED = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"


@pytest.mark.parametrize("module", ["gateway.server", "worker.service", "worker.llama.vocabulary"])
def test_openmp_is_tuned_before_it_is_loaded(module: str) -> None:
    """libgomp reads its settings once, and says so here as it is loaded."""
    code = f"import {module}"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command, env={**environment, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    )
    assert "GOMP_SPINCOUNT = '1000'" in told.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 9000),
        ({"memory.max": "max\n", "memory.current": "5", "memory.stat": ""}, 9000),
        (
            {"memory.max": f"{800 * MIB}\n", "memory.current": f"{300 * MIB}\n", "memory.stat": "anon 5\n"},
            500,
        ),
        (
            {
                "memory.max": f"{800 * MIB}",
                "memory.current": f"{300 * MIB}",
                "memory.stat": f"anon 5\ninactive_file {200 * MIB}\n",  # gives way on demand
            },
            700,
        ),
        ({V1_LIMIT: f"{800 * MIB}", V1_USED: f"{300 * MIB}", "memory/memory.stat": ""}, 500),
        ({V1_LIMIT: str(2**63 - 4096), V1_USED: f"{300 * MIB}", "memory/memory.stat": ""}, 9000),
    ],
)
def test_the_containers_limit_bounds_the_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {24000 * 1024} kB\nMemAvailable: {9000 * 1024} kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory_mb(tmp_path, meminfo) == expected


def test_where_linux_does_not_tell_the_machines_memory_counts(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    assert available_memory_mb(tmp_path, tmp_path / "meminfo") == machine


@pytest.mark.parametrize(
    ("mem_mb", "expected"),
    [
        ("", 5 + 2000),  # the model and a quarter of what is free
        ("6000", 6000),
    ],
)
def test_serve_leaves_room_for_the_users_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mem_mb: str, expected: int
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(TINY_GGUF.ljust(5 * MIB, b"\0"))
    monkeypatch.setenv("MEM_MB", mem_mb)
    assert within_memory(WorkerSettings(model_path=model), 8000).mem_mb == expected
