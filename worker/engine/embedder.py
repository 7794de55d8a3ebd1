"""Many requests' inputs in shared batches, on the one thread that owns the context."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.engine.runner import DecodeError
from worker.protocol import Overloaded, WorkerError, WorkerFailed

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]


class EmbeddingRunner(Protocol):
    """What is needed of a model; tests bring one without weights."""

    size: int
    """The numbers of a vector."""
    max_inputs: int
    max_tokens: int
    """Of all inputs of a batch together; one that is longer has to be alone."""

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        """A row for each input. Raises DecodeError."""
        ...

    def close(self) -> None: ...


class _Job:
    def __init__(self, inputs: Sequence[Sequence[int]], size: int) -> None:
        self.inputs = inputs
        self.vectors = np.empty((len(inputs), size), np.float32)
        self.num_taken = self.num_done = 0
        self.future: Future[Vectors] = Future()


class Embedder:
    """Batches are filled with one input of each request in turn, so that a large one holds up nobody.

    `submit` may be called from any thread. A future that is cancelled costs no further batch.
    """

    def __init__(self, runner: EmbeddingRunner, max_waiting: int) -> None:
        self._runner, self._max_waiting = runner, max_waiting
        self._jobs: deque[_Job] = deque()  # with inputs that no batch has taken; guarded by the condition
        self._changed = threading.Condition()
        self._closed = False
        self._batch_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="llama-embedder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    @property
    def seconds_in_batch(self) -> float:
        """How long what is computed now has taken; 0 without work."""
        began = self._batch_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, inputs: Sequence[Sequence[int]]) -> Future[Vectors]:
        """Raises Overloaded or WorkerFailed instead of queueing without end."""
        job = _Job(inputs, self._runner.size)
        with self._changed:
            if not self.alive:
                raise _stopped()
            if len(self._jobs) >= self._max_waiting:
                raise Overloaded("The model is busy and its queue is full.")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._runner.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._batch_began = time.monotonic()
            try:
                rows = self._runner.embed([job.inputs[index] for job, index in batch])
            except Exception as error:
                log.exception("a batch of %d inputs failed", len(batch))
                self._fail({job for job, _ in batch}, _failure(error))
            else:
                for (job, index), row in zip(batch, rows, strict=True):
                    job.vectors[index] = row
                    job.num_done += 1
                    if job.num_done == len(job.inputs) and job.future.set_running_or_notify_cancel():
                        job.future.set_result(job.vectors)
            self._batch_began = None
        self._fail(set(self._jobs), _stopped())

    def _next_batch(self) -> list[tuple[_Job, int]]:
        """Each input with the job that it is of; none once this is closed."""
        with self._changed:
            while not self._closed:
                if batch := self._fill_batch():
                    return batch
                self._changed.wait()
        return []

    def _fill_batch(self) -> list[tuple[_Job, int]]:
        batch: list[tuple[_Job, int]] = []
        num_tokens = 0
        while self._jobs and len(batch) < self._runner.max_inputs:
            job = self._jobs.popleft()
            if job.future.cancelled() or job.future.done():
                continue
            num_tokens += len(job.inputs[job.num_taken])
            if batch and num_tokens > self._runner.max_tokens:
                self._jobs.appendleft(job)
                break
            batch.append((job, job.num_taken))
            job.num_taken += 1
            if job.num_taken < len(job.inputs):
                self._jobs.append(job)
        return batch

    def _fail(self, jobs: set[_Job], error: WorkerError) -> None:
        for job in jobs:
            if not job.future.done() and job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)


def _stopped() -> WorkerFailed:
    return WorkerFailed("The model has been closed. Send the request again.")


def _failure(error: Exception) -> WorkerFailed:
    if isinstance(error, DecodeError):
        return WorkerFailed(f"llama.cpp could not compute these embeddings: {error}. Send the request again.")
    return WorkerFailed("The worker failed on these embeddings. Its log has the details.")
