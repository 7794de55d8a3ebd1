"""What /proc says about the machine, a server's processes, and who else used the cores meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Cores in use on average over a stretch of time. `others` includes time stolen by the hypervisor."""

    server: float
    client: float
    others: float


class CpuMeter:
    """Measures from its creation to `read()` how much of the machine the server, we and others took.

    A server in our own process leaves nothing to the client.
    """

    def __init__(self, server_pid: int) -> None:
        self._pid = server_pid
        self._start = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        client = 0.0 if self._pid == os.getpid() else time.process_time()
        return time.monotonic(), cpu_seconds(self._pid), client, machine_seconds()

    def read(self) -> CpuUse:
        seconds, server, client, busy = (
            now - then for now, then in zip(self._now(), self._start, strict=True)
        )
        return CpuUse(server / seconds, client / seconds, max(0.0, busy - server - client) / seconds)


def hardware() -> str:
    """The machine in one line, as it belongs over every table."""
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return f"{cpu_model()}, {os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()} {platform.machine()}"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """With family and model, since virtual machines like to hide the rest of the name."""
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    known = {key.strip(): value.strip() for key, _, value in lines}
    numbers = "/".join(known[key] for key in ("cpu family", "model") if key in known)
    return f"{known.get('model name', platform.machine())}{f' ({numbers})' if numbers else ''}"


def family(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    try:
        found = [int(child) for path in children for child in path.read_text().split()]
    except OSError:
        return []
    return [pid] + [descendant for child in found for descendant in family(child)]


def memory(pid: int, key: str = "VmRSS") -> float:
    """MiB over the process and its descendants; `VmHWM` gives the sum of their peaks."""
    return sum(_status_kib(member, key) for member in family(pid)) / 1024


def _status_kib(pid: int, key: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")), 0)


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants."""
    ticks = 0
    for member in family(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except OSError:
            continue
        # The command's name is in parentheses and may hold spaces; utime and stime are fields 14 and 15.
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return ticks / TICKS_PER_SECOND


def machine_seconds() -> float:
    """Busy time over all cores since boot: user, nice, system, interrupts and steal; not idle, not iowait."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
