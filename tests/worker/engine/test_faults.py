"""What becomes of the engine when the model under it raises, fails or hangs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.waiting import wait_until
from tests.worker.engine.fake_runner import FakeModelRunner, make_engine, make_sequence
from tests.worker.engine.test_engine import wait_for
from worker.engine.runner import Chunk, Logits


class HangingRunner(FakeModelRunner):
    """Hangs in the batch that has `hang_on` among its tokens, until `resume` is set."""

    def __init__(self) -> None:
        super().__init__()
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
