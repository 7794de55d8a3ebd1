"""What a model writes, as events: thinking, content and calls, and whose log probabilities go with them."""

from __future__ import annotations

import codecs
import itertools
import random

import pytest

from worker.chat.formats.families import HERMES
from worker.chat.options import Tool, ToolUse
from worker.chat.reader import AnswerReader
from worker.protocol import FinishReason, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta

CLOCK = Tool("get_time")


def logprob(token: str) -> TokenLogprob:
    return TokenLogprob(token, -0.5, token.encode())


def test_log_probabilities_go_with_the_answer_and_not_with_the_thinking() -> None:
    reader = AnswerReader(0, HERMES, None)
    events = reader.feed("<think>", [logprob("<think>")])
    events += reader.feed("hm", [logprob("hm")])
    events += reader.feed("</think>", [logprob("</think>")])
    events += reader.feed("4", [logprob("4")])
    assert events == [ReasoningDelta(0, "hm"), TextDelta(0, "4", (logprob("4"),))]
    assert reader.thought == "hm"


def test_log_probabilities_wait_for_text_that_is_held_back() -> None:
    reader = AnswerReader(0, HERMES, ToolUse((CLOCK,)))
    events = reader.feed("<tool", [logprob("<tool")]) + reader.feed("s>", [logprob("s>")])
    assert events == [TextDelta(0, "<tools>", (logprob("<tool"), logprob("s>")))]


def tokens(*pieces: str | bytes) -> list[TokenLogprob]:
    """With the number of each as its log probability, so that no two are the same."""
    encoded = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
    return [
        TokenLogprob(piece.decode("utf-8", "replace"), -float(number), piece)
        for number, piece in enumerate(encoded)
    ]


def detokenized(written: list[TokenLogprob], cuts: set[int]) -> list[tuple[str, list[TokenLogprob]]]:
    """The text of the tokens in pieces, each with the tokens that begin in it, as an engine hands it out."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, starts = "", []
    for token in written:
        starts.append(len(text))
        text += decoder.decode(token.bytes)
    text += decoder.decode(b"", True)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    pieces = []
    for begin, end in itertools.pairwise(edges):
        last = end == len(text)
        begun = [
            token
            for token, start in zip(written, starts, strict=True)
            if begin <= start and (start < end or last)
        ]
        pieces.append((text[begin:end], begun))
    return pieces


CALL = '{"name": "get_time", "arguments": {}}'
ANSWERS: list[tuple[list[TokenLogprob], set[int], str]] = [
    (tokens("The", " sky", " is", " blue", "."), {0, 1, 2, 3, 4}, "The sky is blue."),
    (tokens("<think>", "hm", "</th", "ink>\n", "\nNo", "."), {4, 5}, "No."),
    (tokens("<think>", "hm", ".", "</think>4", "2"), {3, 4}, "42"),
    (tokens("<think>", "never", " ends"), set(), ""),
    (tokens("<tool_call>", CALL, "</tool_call>"), set(), ""),
    (tokens("I look.", " \n<tool_call>", CALL, "</tool_call>", "\n", "Done"), {0, 4, 5}, "I look.\nDone"),
    (tokens("Look", ".<tool", "_call>", CALL, "</tool_call>So"), {0, 1, 4}, "Look.So"),
    (tokens("a <tool", "box> b"), {0, 1}, "a <toolbox> b"),
    (tokens("<think>", "🗼", "</think>", b"\xf0\x9f", b"\x97\xbc", "!"), {3, 4, 5}, "🗼!"),
    (tokens("<think>x</think>", "cut ", b"\xf0\x9f"), {1, 2}, "cut \ufffd"),
    (tokens("<think>", b"\xf0\x9f", b"\x97", b"\xbc</think>", "", "x", ""), {4, 5, 6}, "x"),
]


@pytest.mark.parametrize(("written", "expected", "content"), ANSWERS)
def test_log_probabilities_are_those_of_the_content_however_the_text_is_cut(
    written: list[TokenLogprob], expected: set[int], content: str
) -> None:
    random_cuts = [{random.Random(seed).randrange(80) for _ in range(seed % 12)} for seed in range(200)]
    for cuts in [set(), set(range(200)), *random_cuts]:
        reader = AnswerReader(0, HERMES, ToolUse((CLOCK,)))
        events = [event for piece in detokenized(written, cuts) for event in reader.feed(*piece)]
        events += reader.finish("stop")[0]
        deltas = [event for event in events if isinstance(event, TextDelta)]
        assert "".join(delta.text for delta in deltas) == content
        got = [logprob for delta in deltas for logprob in delta.logprobs]
        assert got == [written[number] for number in sorted(expected)], cuts


def test_a_call_that_was_cut_off_is_not_told_as_tool_calls() -> None:
    begun = '<tool_call>{"name": "get_time", "arguments": {"zone'
    whole = f"<tool_call>{CALL}</tool_call>"
    reasons: list[FinishReason] = ["stop", "length"]
    for reason in reasons:
        for text in (begun, whole + begun):
            reader = AnswerReader(0, HERMES, ToolUse((CLOCK,)))
            reader.feed(text)
            assert reader.finish(reason)[1] == reason


def test_nothing_is_shown_of_a_required_call_that_was_cut_before_its_arguments() -> None:
    for text in ("<tool", '<tool_call>\n{"name": "get_ti', "<think>hm</think><tool_call>", "<thi"):
        reader = AnswerReader(0, HERMES, ToolUse((CLOCK,), required=True))
        events = reader.feed(text, tokens(text))
        last, reason = reader.finish("length")
        assert [event for event in events + last if not isinstance(event, ReasoningDelta)] == []
        assert reason == "length"


def test_calls_end_an_answer_as_tool_calls_unless_it_was_cut() -> None:
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    for engine_reason, reason in (("stop", "tool_calls"), ("length", "length")):
        reader = AnswerReader(0, HERMES, ToolUse((CLOCK,)))
        reader.feed(call)
        assert reader.finish(engine_reason)[1] == reason  # type: ignore[arg-type]
    assert AnswerReader(0, HERMES, ToolUse((CLOCK,))).finish("stop")[1] == "stop"


def test_one_call_is_enough_where_parallel_ones_are_not_wanted() -> None:
    reader = AnswerReader(0, HERMES, ToolUse((CLOCK,), parallel=False))
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    events = reader.feed(call + call)
    assert [event.call for event in events if isinstance(event, ToolCallDelta)] == [0, 0]
    assert reader.done
    assert reader.finish("length")[1] == "tool_calls"  # the tokens ran out behind what was wanted
