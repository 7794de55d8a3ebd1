"""Many requests' inputs in shared batches, over a model without weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from worker.engine.embedder import Embedder, Vectors
from worker.engine.runner import DecodeError
from worker.protocol import Overloaded, WorkerFailed

FAILING = 99


class FakeRunner:
    """A vector is the input's first token and its length. Batches wait until the test lets them go."""

    size, max_inputs, max_tokens = 2, 4, 8

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.closed = False
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        self.batches.append([list(tokens) for tokens in inputs])
        self.entered.release()
        assert self.go.acquire(timeout=10)
        if any(FAILING in tokens for tokens in inputs):
            raise DecodeError("llama_encode returned -1")
        return np.array([[tokens[0], len(tokens)] for tokens in inputs], np.float32)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def embedder(runner: FakeRunner) -> Iterator[Embedder]:
    embedder = Embedder(runner, max_waiting=3)
    yield embedder
    runner.go.release(1000)
    embedder.close()


def blocked(embedder: Embedder, runner: FakeRunner) -> None:
    """What comes now waits together: a first batch is under way, and does not end."""
    embedder.submit([[7]])
    assert runner.entered.acquire(timeout=10)


def test_rows_come_back_in_the_order_of_the_inputs(embedder: Embedder, runner: FakeRunner) -> None:
    runner.go.release(1000)
    inputs = [[token] * (1 + token % 5) for token in range(50)]
    rows = embedder.submit(inputs).result(10)
    assert rows.tolist() == [[tokens[0], len(tokens)] for tokens in inputs]
    assert all(len(batch) <= 4 and sum(map(len, batch)) <= 8 for batch in runner.batches)


def test_an_input_longer_than_a_batch_is_alone(embedder: Embedder, runner: FakeRunner) -> None:
    runner.go.release(1000)
    embedder.submit([[1], [2] * 20, [3]]).result(10)
    assert runner.batches == [[[1]], [[2] * 20], [[3]]]


def test_requests_share_batches_and_take_turns(embedder: Embedder, runner: FakeRunner) -> None:
    blocked(embedder, runner)
    large, small = embedder.submit([[1]] * 8), embedder.submit([[2]])
    runner.go.release(2)
    assert small.result(10).tolist() == [[2, 1]]
    assert runner.batches[1] == [[1], [2], [1], [1]]
    runner.go.release(1000)
    assert len(large.result(10)) == 8


def test_what_is_cancelled_costs_no_further_batch(embedder: Embedder, runner: FakeRunner) -> None:
    blocked(embedder, runner)
    large = embedder.submit([[1]] * 1000)
    runner.go.release()
    assert runner.entered.acquire(timeout=10)
    assert large.cancel()
    runner.go.release(1000)
    assert embedder.submit([[2]]).result(10).tolist() == [[2, 1]]
    assert runner.batches[2:] == [[[2]]]


def test_a_batch_that_fails_fails_those_that_were_in_it(embedder: Embedder, runner: FakeRunner) -> None:
    runner.go.release(1000)
    with pytest.raises(WorkerFailed, match="llama_encode returned -1"):
        embedder.submit([[1], [FAILING], [1] * 8, [1]]).result(10)
    assert len(embedder.submit([[1]]).result(10)) == 1
    assert embedder.alive


def test_a_full_queue_is_told(embedder: Embedder, runner: FakeRunner) -> None:
    blocked(embedder, runner)
    for _ in range(3):
        embedder.submit([[1]])
    with pytest.raises(Overloaded):
        embedder.submit([[1]])


def test_how_long_a_batch_takes_is_seen(embedder: Embedder, runner: FakeRunner) -> None:
    assert embedder.stats().seconds_in_batch == 0
    blocked(embedder, runner)
    before = embedder.stats().seconds_in_batch
    assert 0 < before < embedder.stats().seconds_in_batch


def test_what_runs_and_waits_is_counted_by_inputs(embedder: Embedder, runner: FakeRunner) -> None:
    blocked(embedder, runner)
    waiting = embedder.submit([[1], [2, 2], [3]])
    now = embedder.stats()
    assert (now.num_running, now.num_waiting, now.num_finished_total) == (1, 3, 0)
    assert now.num_tokens_running == 1
    runner.go.release(1000)
    waiting.result(10)
    with pytest.raises(WorkerFailed):
        embedder.submit([[FAILING]]).result(10)
    embedder.submit([[1]]).result(10)
    then = embedder.stats()
    assert (then.num_finished_total, then.num_failed_total, then.num_tokens_total) == (5, 1, 6)
    assert then.num_waiting == 0
    assert then.num_batches_total == sum(then.num_batches_by_seconds)


def test_closing_leaves_nobody_waiting(embedder: Embedder, runner: FakeRunner) -> None:
    blocked(embedder, runner)
    waiting = embedder.submit([[1]])
    closing = threading.Thread(target=embedder.close)
    closing.start()
    runner.go.release(1000)
    closing.join(10)
    with pytest.raises(WorkerFailed, match="closed"):
        waiting.result(10)
    with pytest.raises(WorkerFailed, match="closed"):
        embedder.submit([[1]])
    assert runner.closed
    assert not embedder.alive
