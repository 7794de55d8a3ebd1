"""Thinking is told from answering, wherever the text is cut."""

from __future__ import annotations

import pytest

from worker.chat.reasoning import Reasoning, ReasoningParser, opened_tag, without_reasoning

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
    ("</think>", "Hm.\n\nYes.\n</think>\n\nFour.\n\nFive", "Hm.\n\nYes.", "Four.\n\nFive"),
    ("</think>", "\nHm.", "Hm.", ""),
]


def parse(tag: str | None, chunks: list[str]) -> tuple[str, str]:
    parser = ReasoningParser(tag)
    parts = [part for chunk in chunks for part in parser.feed(chunk)] + parser.finish()
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return thought, "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize(("tag", "text", "thought", "answer"), CASES)
def test_reasoning_is_apart_however_the_text_is_cut(
    tag: str | None, text: str, thought: str, answer: str
) -> None:
    assert parse(tag, [text]) == (thought, answer)
    assert parse(tag, list(text)) == (thought, answer)
    for at in range(1, len(text)):
        assert parse(tag, [text[:at], text[at:]]) == (thought, answer), text[:at]


def test_an_answer_is_not_held_back_once_it_cannot_be_a_tag() -> None:
    assert ReasoningParser().feed("H") == ["H"]
    assert ReasoningParser("</think>").feed("Hm <") == [Reasoning("Hm ")]


def test_a_prompt_may_open_the_thinking() -> None:
    assert opened_tag("<|im_start|>assistant\n<think>\n") == "</think>"
    assert opened_tag("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None


def test_earlier_answers_are_split_for_the_template() -> None:
    assert without_reasoning("<think>\na\n</think>\n\nb") == ("a", "b")
    assert without_reasoning("b </think> c") == ("", "b </think> c")
