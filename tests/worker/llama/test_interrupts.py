"""Ctrl-C at the moments where Python alone would lose it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTS = """
import sys
from pathlib import Path

from worker.llama.interrupts import ctrl_c_exits
"""
IN_A_CALLBACK = """
import ctypes, threading

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(left, right):
    print("ready", flush=True)
    threading.Event().wait()

def compute():
    ctypes.CDLL(None).qsort((ctypes.c_int * 2)(), 2, 4, compare)
"""
IN_A_LONG_CALL = """
import ctypes

def compute():
    print("ready", flush=True)
    lock = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


@pytest.mark.parametrize("program", [IN_A_CALLBACK, IN_A_LONG_CALL])
def test_ctrl_c_ends_what_computes_in_c(tmp_path: Path, program: str) -> None:
    partial = tmp_path / "partial"
    partial.touch()
    call = "with ctrl_c_exits(Path(sys.argv[1]).unlink): compute()"
    command = [sys.executable, "-c", f"{IMPORTS}\n{program}\n{call}", str(partial)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "")
    assert not partial.exists()


def test_afterwards_ctrl_c_is_as_it_was() -> None:
    program = """
import signal, threading
from worker.llama.interrupts import ctrl_c_exits
with ctrl_c_exits():
    pass
assert threading.active_count() == 1
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=10)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")
