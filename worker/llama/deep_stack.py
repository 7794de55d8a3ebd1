"""Room for llama.cpp's regular expressions, which call themselves once for each character of a word."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
STACK_BYTES = 512 << 20  # address space, of which only what is used becomes memory
_starting = threading.Lock()
_running = threading.Semaphore(4)  # so that many callers at once do not reserve a stack each


def with_deep_stack(function: Callable[[], T]) -> T:
    """What `function` gives or raises, run on a stack of STACK_BYTES."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # it is the caller's
            errors.append(error)

    with _running:
        thread = threading.Thread(target=run, name="tokenizer")
        with _starting:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
