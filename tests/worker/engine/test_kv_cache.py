"""Which slot a request gets, and how much of its prompt it need not compute there."""

from __future__ import annotations

import random

import pytest

from tests.worker.engine.conversations import Chat, cached_share, take_turns, talk_at_once
from tests.worker.engine.fake_runner import FakeModelRunner, make_engine, make_sequence, run, submit

SYSTEM = [1 + i * 7 % 60 for i in range(40)]
MIB = 2**20


def chats(number: int, num_words: int = 12, num_answer: int = 8) -> list[Chat]:
    return [Chat(random.Random(seed), SYSTEM, num_words, num_answer) for seed in range(number)]


def test_conversations_under_one_system_prompt_leave_each_other_alone_while_slots_are_idle() -> None:
    runner = FakeModelRunner(num_slots=8, context_length=200, max_batch=64)
    engine = make_engine(runner)
    take_turns(engine, chats(3), 4)
    stats = engine.stats()
    new_words = 3 * 4 * (12 + 1)  # and an answer's last token, which was never computed
    assert stats.num_prompt_tokens_total <= len(SYSTEM) + new_words


def test_a_short_question_does_not_cut_a_long_conversation() -> None:
    runner = FakeModelRunner(num_slots=2, context_length=400, max_batch=400)
    engine = make_engine(runner)
    conversation = submit(engine, make_sequence([*SYSTEM, *[5, 9] * 100], max_tokens=4))
    run(engine)
    submit(engine, make_sequence([*SYSTEM[:20], 7, 7], max_tokens=4))
    run(engine)
    follow_up = submit(engine, make_sequence([*conversation.tokens, 3], max_tokens=1))
    run(engine)
    assert follow_up.num_cached == len(conversation.tokens) - 1


@pytest.mark.parametrize("seed", range(3))
def test_as_many_users_as_slots_keep_their_conversations(seed: int) -> None:
    runner = FakeModelRunner(num_slots=8, context_length=400, max_batch=256)
    engine = make_engine(runner)
    users = chats(8, num_words=30, num_answer=20)
    talk_at_once(engine, users, 5, think=0.5, rng=random.Random(seed))
    # Not all: an idle slot between busy ones costs something as well.
    assert cached_share(engine) >= 0.95 * share_of_what_was_said_before(users)


@pytest.mark.parametrize("seed", range(3))
def test_more_users_than_slots_keep_theirs_in_memory(seed: int) -> None:
    runner = FakeModelRunner(num_slots=8, context_length=400, max_batch=256)
    engine = make_engine(runner, cache_bytes=MIB)
    users = chats(24, num_words=30, num_answer=20)
    talk_at_once(engine, users, 5, think=0.5, rng=random.Random(seed))
    assert cached_share(engine) >= 0.98 * share_of_what_was_said_before(users)


def share_of_what_was_said_before(users: list[Chat]) -> float:
    """Of all prompts, the tokens that were computed before, if nothing is ever forgotten."""
    known = total = 0
    for user in users:
        turn = user.num_words + user.num_answer
        prompts = [len(SYSTEM) + i * turn + user.num_words for i in range(user.num_turns)]
        total += sum(prompts)
        known += sum(prompt + user.num_answer - 1 for prompt in prompts[:-1]) + len(SYSTEM)
    return (known - len(SYSTEM)) / total
