"""People who chat with a fake engine: each turn sends the whole history again, after some thought."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.worker.engine.fake_runner import continuation, fetched, make_sequence, text_of
from worker.engine.engine import Engine
from worker.engine.sequence import Sequence, State


@dataclass
class Chat:
    """One conversation; its rng makes the user's words."""

    rng: random.Random
    system: list[int]
    num_words: int = 12
    num_answer: int = 8
    history: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    num_turns: int = 0
    thinks_until: float = 0.0

    def ask(self, engine: Engine) -> None:
        words = [self.rng.randrange(1, 63) for _ in range(self.num_words)]
        self.history = [*(self.history or self.system), *words]
        self.sequence = make_sequence(self.history, max_tokens=self.num_answer)
        engine.submit(self.sequence)

    def read(self) -> None:
        """Check the answer against what a model alone would say, and remember it."""
        assert self.sequence is not None
        output = fetched(self.sequence)
        expected = continuation(self.history, self.num_answer)
        assert output is not None
        assert output.text == text_of(expected)
        self.history = [*self.history, *expected]
        self.sequence = None
        self.num_turns += 1


def take_turns(engine: Engine, chats: list[Chat], num_turns: int) -> None:
    """One after the other, nobody at the same time."""
    for _ in range(num_turns):
        for chat in chats:
            chat.ask(engine)
            engine.drain()
            while not engine.is_idle:
                engine.step()
                engine.check_integrity()
            chat.read()


def talk_at_once(engine: Engine, chats: list[Chat], num_turns: int, think: float, rng: random.Random) -> None:
    """Everybody for himself; `think` are seconds of the fake's clock between an answer and what follows."""
    now = 0.0
    while any(chat.num_turns < num_turns for chat in chats):
        for chat in chats:
            if chat.sequence is not None and chat.sequence.state is State.FINISHED:
                chat.read()
                chat.thinks_until = now + think * rng.uniform(0.5, 1.5)
            if chat.sequence is None and chat.num_turns < num_turns and now >= chat.thinks_until:
                chat.ask(engine)
        engine.drain()
        before = engine._clock()
        engine.step()
        engine.check_integrity()
        now += max(0.005, engine._clock() - before)


def cached_share(engine: Engine) -> float:
    stats = engine.stats()
    return stats.num_cached_tokens_total / (stats.num_cached_tokens_total + stats.num_prompt_tokens_total)
