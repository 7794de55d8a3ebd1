"""Thinking is told from answering, wherever the text is cut."""

from __future__ import annotations

import pytest

from worker.chat.formats.families import HERMES
from worker.chat.formats.parts import Content, Thought
from worker.chat.formats.reader import FormatReader
from worker.chat.formats.record import THINK, Tags

CASES = [
    (None, "<think>\nHm. 1 < 2.\n</think>\n\nIt is 4.", "Hm. 1 < 2.", "It is 4."),
    (None, "<think></think>4", "", "4"),
    (None, "  <think>a</think>b", "a", "b"),
    (None, "[THINK]a[/THINK]b", "a", "b"),
    (None, "No thought.\n", "", "No thought.\n"),
    (None, "<thinly>", "", "<thinly>"),
    (None, "<thin", "", "<thin"),
    (None, "An answer with </think> in it", "", "An answer with </think> in it"),
    (None, "<think>never ends\n\nat all </thin", "never ends\n\nat all </thin", ""),
    (THINK, "Hm.\n\nYes.\n</think>\n\nFour.\n\nFive", "Hm.\n\nYes.", "Four.\n\nFive"),
    (THINK, "\nHm.", "Hm.", ""),
]


def parse(opened: Tags | None, chunks: list[str]) -> tuple[str, str]:
    parser = FormatReader(HERMES, None, opened)
    parts = [part for chunk in chunks for part in parser.feed(chunk)] + parser.finish()
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    return thought, "".join(part.text for part in parts if isinstance(part, Content))


@pytest.mark.parametrize(("opened", "text", "thought", "answer"), CASES)
def test_reasoning_is_apart_however_the_text_is_cut(
    opened: Tags | None, text: str, thought: str, answer: str
) -> None:
    assert parse(opened, [text]) == (thought, answer)
    assert parse(opened, list(text)) == (thought, answer)
    for at in range(1, len(text)):
        assert parse(opened, [text[:at], text[at:]]) == (thought, answer), text[:at]


def test_an_answer_is_not_held_back_once_it_cannot_be_a_tag() -> None:
    assert FormatReader(HERMES, None).feed("H") == [Content("H", 0)]
    assert FormatReader(HERMES, None, THINK).feed("Hm <") == [Thought("Hm ")]


def test_a_prompt_may_open_the_thinking() -> None:
    assert HERMES.opened_by("<|im_start|>assistant\n<think>\n") == THINK
    assert HERMES.opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None


def test_earlier_answers_are_split_for_the_template() -> None:
    assert HERMES.without_thinking("<think>\na\n</think>\n\nb") == ("a", "b")
    assert HERMES.without_thinking("b </think> c") == ("", "b </think> c")
