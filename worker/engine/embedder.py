"""Many requests' inputs in shared batches, on the one thread that owns the context."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.engine.runner import DecodeError
from worker.protocol import STEP_BUCKETS, Overloaded, WorkerError, WorkerFailed

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


@dataclass(frozen=True, slots=True)
class EmbedderStats:
    """A picture of the embedder; the `num_..._total` only ever grow. Inputs are counted, not requests."""

    num_running: int
    num_waiting: int
    num_tokens_running: int
    seconds_in_batch: float  # how long what is computed now has taken; 0 without work
    num_tokens_total: int
    num_batches_total: int
    num_finished_total: int
    num_failed_total: int
    batch_seconds_total: float
    num_batches_by_seconds: tuple[int, ...]  # up to each of STEP_BUCKETS, and beyond


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
        self._num_running = self._num_tokens_running = self._num_tokens = self._num_finished = (
            self._num_failed
        ) = 0
        self._batch_seconds = 0.0
        self._num_batches_by_seconds = [0] * (len(STEP_BUCKETS) + 1)
        self._thread = threading.Thread(target=self._run, name="llama-embedder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    @property
    def is_full(self) -> bool:
        return len(self._jobs) >= self._max_waiting

    def stats(self) -> EmbedderStats:
        began = self._batch_began
        with self._changed:
            num_waiting = sum(len(job.inputs) - job.num_taken for job in self._jobs)
        return EmbedderStats(
            num_running=self._num_running,
            num_waiting=num_waiting,
            num_tokens_running=self._num_tokens_running,
            seconds_in_batch=0.0 if began is None else time.monotonic() - began,
            num_tokens_total=self._num_tokens,
            num_batches_total=sum(self._num_batches_by_seconds),
            num_finished_total=self._num_finished,
            num_failed_total=self._num_failed,
            batch_seconds_total=self._batch_seconds,
            num_batches_by_seconds=tuple(self._num_batches_by_seconds),
        )

    def submit(self, inputs: Sequence[Sequence[int]]) -> Future[Vectors]:
        """Raises Overloaded or WorkerFailed instead of queueing without end."""
        job = _Job(inputs, self._runner.size)
        with self._changed:
            if not self.alive:
                raise _stopped()
            if self.is_full:
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
            began = self._batch_began = time.monotonic()
            inputs = [job.inputs[index] for job, index in batch]
            self._num_running, self._num_tokens_running = len(inputs), sum(map(len, inputs))
            try:
                rows = self._runner.embed(inputs)
            except Exception as error:
                log.exception("a batch of %d inputs failed", len(batch))
                self._num_failed += len(batch)
                self._fail({job for job, _ in batch}, _failure(error))
            else:
                self._num_finished += len(batch)
                self._num_tokens += self._num_tokens_running
                for (job, index), row in zip(batch, rows, strict=True):
                    job.vectors[index] = row
                    job.num_done += 1
                    if job.num_done == len(job.inputs) and job.future.set_running_or_notify_cancel():
                        job.future.set_result(job.vectors)
            self._note(time.monotonic() - began)
        self._fail(set(self._jobs), _stopped())

    def _note(self, seconds: float) -> None:
        self._batch_began, self._num_running, self._num_tokens_running = None, 0, 0
        self._batch_seconds += seconds
        self._num_batches_by_seconds[bisect_left(STEP_BUCKETS, seconds)] += 1

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
