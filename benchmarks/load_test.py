"""Locust's users on one server after the other: python -m benchmarks report --only load.

The same users (benchmarks/locustfile.py), ramped linearly, for every server. Locust lives in an environment
of its own; what it writes every second becomes the curves of the report.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.machine import CpuMeter, CpuUse, memory
from benchmarks.peer import environment
from benchmarks.running import Server

LOCUST = "locust==2.47.0"
ENDED_WITH_FAILURES = 1


@dataclass(frozen=True, slots=True)
class Moment:
    """One second of a test; times in seconds, of the answers of the last ten seconds."""

    at: float
    users: int
    requests_per_s: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class LoadTest:
    """Seconds until whole answers, and `first_text` (p50, p95) where they stream. `rss` in MiB."""

    users: int
    requests: int
    failures: int
    requests_per_s: float
    most_per_s: float  # over any ten seconds
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float
    first_text: tuple[float, float] | None
    rss: float
    cpu: CpuUse
    moments: Sequence[Moment]


def locust() -> Path:
    """The program, installed on first use."""
    return environment("locust", LOCUST).with_name("locust")


def run(server: Server, user: str, users: int, ramp: float, seconds: float, max_tokens: int) -> LoadTest:
    """`ramp` users more each second, the whole of it for `seconds`. Raises where Locust itself fails."""
    size = ["--users", str(users), "--spawn-rate", str(ramp), "--run-time", f"{seconds:.0f}s"]
    host = ["--host", f"http://127.0.0.1:{server.port}"]
    with tempfile.TemporaryDirectory() as folder:
        kept = ["--csv", f"{folder}/load", "--csv-full-history", "--only-summary", "--headless"]
        meter = CpuMeter(server.pid)
        done = subprocess.run(
            [str(locust()), "-f", "benchmarks/locustfile.py", *host, *size, *kept, user],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MAX_TOKENS": str(max_tokens)},
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, ENDED_WITH_FAILURES):
            raise RuntimeError(f"Locust failed:\n{done.stderr[-2000:]}")
        print(done.stderr[-400:] if done.returncode else "", end="", file=sys.stderr)
        return read(Path(folder), users, memory(server.pid, "VmHWM"), meter.read())


def read(folder: Path, users: int, rss: float, cpu: CpuUse) -> LoadTest:
    """What Locust wrote. Raises where no answer ended."""
    rows = {row["Type"]: row for row in _rows(folder / "load_stats.csv")}
    # A first text is reported as a request of its own, and so counted in what Locust calls the total.
    if (asked := rows.get("POST")) is None:
        raise RuntimeError("no answer ended while Locust ran: let it run longer")
    first = rows.get("TTFT")
    moments = _moments([row for row in _rows(folder / "load_stats_history.csv") if row["Type"] == "POST"])
    return LoadTest(
        users,
        int(asked["Request Count"]),
        int(asked["Failure Count"]),
        float(asked["Requests/s"]),
        max((moment.requests_per_s for moment in moments), default=0.0),
        _seconds(asked["Average Response Time"]),
        _seconds(asked["Median Response Time"]),
        _seconds(asked["95%"]),
        _seconds(asked["99%"]),
        _seconds(asked["Max Response Time"]),
        (_seconds(first["Median Response Time"]), _seconds(first["95%"])) if first else None,
        rss,
        cpu,
        moments,
    )


def _moments(rows: Sequence[dict[str, str]]) -> list[Moment]:
    start = float(rows[0]["Timestamp"]) if rows else 0.0
    return [
        Moment(
            float(row["Timestamp"]) - start,
            int(row["User Count"]),
            float(row["Requests/s"]),
            _seconds(row["50%"]),
            _seconds(row["95%"]),
        )
        for row in rows
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _seconds(milliseconds: str) -> float:
    return math.nan if milliseconds in ("", "N/A") else float(milliseconds) / 1000
