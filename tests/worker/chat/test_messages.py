"""Conversations in the forms that templates accept."""

from __future__ import annotations

from worker.chat.messages import with_system_prompt

HELLO = {"role": "user", "content": "Hi"}
MINE = {"role": "system", "content": "Mine."}


def test_the_default_system_prompt_gives_way_to_the_clients() -> None:
    assert with_system_prompt([HELLO], "Be kind.") == [{"role": "system", "content": "Be kind."}, HELLO]
    assert with_system_prompt([MINE, HELLO], "Be kind.") == [MINE, HELLO]
    assert with_system_prompt([HELLO], "") == [HELLO]
