"""Where log lines go: a thread that may wait for a slow pipe, so that no request has to."""

from __future__ import annotations

import atexit
import contextlib
import io
import queue
import threading
import time
from typing import TextIO


class LogStream(io.TextIOBase):
    """Writes to `stream` from a thread of its own.

    A pipe that nobody reads holds nothing up: beyond `most` lines they are dropped, and counted. One that is
    closed, or a disk that is full, loses lines and nothing else.
    """

    CLOSE_SECONDS = 1.0

    def __init__(self, stream: TextIO, most: int = 10_000) -> None:
        self.num_dropped = 0
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(most)
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.drain)

    def write(self, text: str) -> int:
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.num_dropped += 1
        return len(text)

    def drain(self) -> None:
        """Wait until all is written, but not long: nobody may be reading."""
        deadline = time.monotonic() + self.CLOSE_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            text = self._lines.get()
            if self.num_dropped and self._lines.empty():
                dropped, self.num_dropped = self.num_dropped, 0
                text += f"{dropped} log lines were dropped: whoever reads them was too slow\n"
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()
            self._lines.task_done()
