"""An executor for tests: what is submitted is done at once, or when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Inline(Executor):
    """While it is `held`, jobs wait for `release`."""

    def __init__(self) -> None:
        self.held = False
        self._jobs: list[Callable[[], None]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            future.set_result(function(*args, **kwargs))

        self._jobs.append(work)
        if not self.held:
            self.release()
        return future

    def release(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()
