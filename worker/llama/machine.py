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
    known = [_machine_memory_mb(meminfo), _container_memory_mb(cgroup)]
    return min((mb for mb in known if mb is not None), default=None)


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


def _machine_memory_mb(meminfo: Path) -> int | None:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    except OSError:  # not Linux: all there is, since its caches give way
        found = None
    if found:
        return int(found[1]) // 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (AttributeError, ValueError, OSError):
        return None


def _container_memory_mb(cgroup: Path) -> int | None:
    for folder, limit, used, cache in (  # cgroup v2, then v1
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            stat = (folder / "memory.stat").read_text()
        except (OSError, ValueError):  # not there, or "max"
            continue
        found = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)  # counted as used, given up on demand
        return free + (int(found[1]) if found else 0) >> 20
    return None
