"""What becomes of the engine when the model under it raises, fails or hangs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.waiting import wait_until
from tests.worker.engine.fake_runner import FakeModelRunner, continuation, make_engine, make_sequence, text_of
from tests.worker.engine.test_engine import wait_for
from worker.engine import engine as engine_module
from worker.engine.engine import Engine
from worker.engine.runner import Chunk, Logits
from worker.engine.sequence import Sequence as Running
from worker.protocol import WorkerFailed


class HangingRunner(FakeModelRunner):
    """Hangs in the batch that has `hang_on` among its tokens, until `resume` is set."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hang_on: int | None = None
        self.hangs, self.resume = threading.Event(), threading.Event()

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        if any(self.hang_on in chunk.tokens for chunk in chunks):
            self.hangs.set()
            assert self.resume.wait(20)
        return super().decode(chunks)


def test_a_step_that_hangs_shows_and_so_does_its_end() -> None:
    runner = HangingRunner()
    engine = make_engine(runner)
    engine.start()
    assert engine.stats().seconds_in_turn == 0
    runner.hang_on = 50
    sequence = make_sequence([50], max_tokens=2)
    engine.submit(sequence)
    assert runner.hangs.wait(10)
    wait_until(lambda: engine.stats().seconds_in_turn > 0.05)
    runner.resume.set()
    wait_for(sequence)
    wait_until(lambda: engine.stats().seconds_in_turn == 0)
    engine.close()


class RaisingRunner(FakeModelRunner):
    """Raises what nobody expects when `raise_on` is among a batch's tokens."""

    raise_on: int | None = None

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        if any(self.raise_on in chunk.tokens for chunk in chunks):
            raise ValueError("a bug")
        return super().decode(chunks)


def text_and_error(sequence: Running) -> tuple[str, BaseException | None]:
    text = ""
    while True:
        output = wait_for(sequence)
        text += output.text
        if output.error is not None or output.finish_reason is not None:
            return text, output.error


def assert_answers(engine: Engine, prompt: list[int]) -> None:
    engine.submit(sequence := make_sequence(prompt, max_tokens=8))
    assert text_and_error(sequence) == (text_of(continuation(prompt, 8)), None)


def test_an_engine_that_raises_fails_what_is_under_way_and_goes_on() -> None:
    runner = RaisingRunner(num_slots=2)
    engine = make_engine(runner)
    runner.raise_on = 50
    others = [make_sequence([i, i], max_tokens=40) for i in (1, 2)]
    waiting, failing = make_sequence([3, 3], max_tokens=2), make_sequence([50], max_tokens=2)
    for sequence in (*others, failing, waiting):
        engine.submit(sequence)
    engine.start()
    for sequence in (*others, failing, waiting):
        assert isinstance(text_and_error(sequence)[1], WorkerFailed)
        engine.abort(sequence)  # as whoever waited for it does
    runner.raise_on = None
    assert_answers(engine, [1, 1])
    engine.call(engine.check_integrity)
    assert engine.alive
    engine.close()


def test_faults_that_are_far_between_are_not_added_up() -> None:
    runner = RaisingRunner()
    engine = make_engine(runner)
    engine.start()
    for i in range(2 * engine_module.MAX_FAULTS):
        runner.raise_on = 50
        engine.submit(failing := make_sequence([50]))
        assert isinstance(text_and_error(failing)[1], WorkerFailed)
        runner.raise_on = None
        assert_answers(engine, [1 + i])
    engine.close()


def test_requests_of_an_engine_that_hangs_fail_and_it_answers_again_once_it_goes_on() -> None:
    runner = HangingRunner()
    runner.hang_on = 50
    engine = make_engine(runner, hang_seconds=0.1)
    engine.start()
    sequences = [make_sequence([50], max_tokens=2), make_sequence([1], max_tokens=40)]
    for sequence in sequences:
        engine.submit(sequence)
    assert runner.hangs.wait(10)
    for sequence in sequences:
        assert isinstance(text_and_error(sequence)[1], WorkerFailed)
    assert not engine.alive
    with pytest.raises(WorkerFailed, match="hangs"):
        engine.submit(make_sequence([2]))
    for sequence in sequences:
        engine.abort(sequence)
    runner.resume.set()
    wait_until(lambda: engine.alive)
    assert_answers(engine, [1, 1])
    engine.call(engine.check_integrity)
    engine.close()
    assert runner.closed


def test_an_engine_that_never_comes_back_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CLOSE_SECONDS", 0.05)
    runner = HangingRunner()
    runner.hang_on = 50
    engine = make_engine(runner)
    engine.start()
    engine.submit(sequence := make_sequence([50]))
    assert runner.hangs.wait(10)
    engine.close()
    assert isinstance(text_and_error(sequence)[1], WorkerFailed)
    assert not runner.closed  # the thread is still in it
    runner.resume.set()
    wait_until(lambda: engine.has_ended)
