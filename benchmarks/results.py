"""Where results are kept: single runs as they end, and each benchmark's document, which ends its output."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import CACHE
from benchmarks.tables import last_line


class RunFile:
    """One line of JSON for each run, written as it ends: what an interrupted benchmark has measured stays."""

    def __init__(self, name: str) -> None:
        self._path = CACHE / "runs" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"

    def add(self, **figures: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(last_line({"time": time.strftime("%FT%T"), **figures}) + "\n")


def finish(name: str, document: dict[str, Any]) -> Path:
    """Keep the document, and print it as the last line of stdout."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.json"
    line = last_line({"benchmark": name, **document})
    path.write_text(line + "\n")
    print(f"written to {path}\n{line}", flush=True)
    return path
