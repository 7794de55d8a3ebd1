"""The cores and memory that this process may really use, and how OpenMP's threads wait for each other.

Imports nothing of llama.cpp: `tune_openmp` must run before libgomp is loaded with it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores by affinity and by the container's CPU quota, whichever is fewer; at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    # Rounded down: a thread without a core of its own makes every barrier wait for it.
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def available_memory_mb(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """MiB that could be allocated now, by the machine and by the container's limit; None where unknown."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    except OSError:
        found = None
    machine = int(found[1]) // 1024 if found else None
    try:
        limit = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return machine
    return min(limit >> 20, machine) if machine is not None else limit >> 20


def tune_openmp() -> None:
    """Let threads spin briefly at a barrier, then sleep, unless the user chose otherwise."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _quota(cgroup: Path) -> float | None:
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, then v1
        try:
            words = " ".join((cgroup / name).read_text() for name in files).split()
        except OSError:
            continue
        if words[0] in ("max", "-1"):
            return None
        return float(words[0]) / float(words[1])
    return None
