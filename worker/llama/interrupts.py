"""Ctrl-C while llama.cpp computes.

Python raises KeyboardInterrupt between two of its own instructions: not before a long call into llama.cpp
returns, and in the log callback, where it is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended


@contextlib.contextmanager
def ctrl_c_exits(cleanup: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Until this is left, Ctrl-C calls `cleanup` from another thread and ends the process at once.

    Only the main thread may change how signals are handled; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def watch() -> None:
        if watched.recv(1):
            try:
                cleanup()
            finally:
                os._exit(INTERRUPTED)

    waking, watched = socket.socketpair()
    waking.setblocking(False)
    watcher = threading.Thread(target=watch)
    watcher.start()
    # Written to as soon as the signal arrives, whatever the main thread does. The handler itself may be late.
    previous_fd = signal.set_wakeup_fd(waking.fileno())
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.set_wakeup_fd(previous_fd)
        waking.close()
        watcher.join()
        watched.close()
