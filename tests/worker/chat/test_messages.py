"""Telling the model what it is asked for, where its template has no place for it."""

from __future__ import annotations

import codecs
import itertools
import random
from typing import Any

import pytest

from tests.worker.chat.grammar_checker import GrammarChecker, vocabulary
from tests.worker.chat.test_template import template
from worker.chat.prepare import AnswerReader, prepare
from worker.chat.template import ChatTemplate
from worker.protocol import (
    MAX_NESTING,
    ChatRequest,
    FinishReason,
    InvalidRequest,
    ReasoningDelta,
    ResponseFormat,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolUse,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "The weather", CITY)
CLOCK = Tool("get_time")
MESSAGES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NATIVE = MESSAGES + "{% if tools %}{{ tools | tojson }}{% endif %}"
THINKS = MESSAGES + "{{ enable_thinking }}<think>\n"
ARRAY = ResponseFormat({"type": "array", "items": {}})


def request(**more: Any) -> ChatRequest:
    return ChatRequest("id", "model", [{"role": "user", "content": "Hi"}], **more)


def told(chat_template: ChatTemplate, asked: ChatRequest) -> str:
    prompt = prepare(asked, chat_template, "Be kind.").prompt
    return vocabulary().detokenize(prompt.tokens, special=True).decode()


def checker(asked: ChatRequest, source: str | None = None) -> GrammarChecker:
    grammar = prepare(asked, template(source), "").grammar
    assert grammar
    return GrammarChecker(grammar)


def test_the_default_system_prompt_gives_way_to_the_clients() -> None:
    own = ChatRequest(
        "id", "model", [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    )
    assert "Be kind." in told(template(), request())
    assert "Be kind." not in told(template(), own)


def test_tools_are_described_only_where_the_template_does_not_know_them() -> None:
    asked = request(tool_use=ToolUse((WEATHER,)))
    assert "<tools>" in told(template(), asked)
    native = told(template(NATIVE), asked)
    assert "<tools>" not in native
    assert '"name": "get_weather"' in native


def test_the_model_is_shown_the_schema_with_its_descriptions() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "the first letter"}}}
    assert "the first letter" in told(template(), request(response_format=ResponseFormat(schema)))
    assert "Be kind." in told(template(), request(response_format=ResponseFormat(schema)))


def test_a_required_call_is_enforced_with_its_arguments() -> None:
    grammar = checker(request(tool_use=ToolUse((WEATHER, CLOCK), required=True)), NATIVE)
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert grammar.accepts(call)
    assert grammar.accepts(f'{call}\n<tool_call>\n{{"name": "get_time", "arguments": {{}}}}\n</tool_call>')
    assert not grammar.accepts(call.replace("city", "town"))
    assert not grammar.accepts(call.replace("weather", "whether"))
    assert not grammar.accepts("Paris is sunny.")


def test_a_model_without_tools_of_its_own_is_held_to_one_call() -> None:
    grammar = checker(request(tool_use=ToolUse((CLOCK,), required=True)))
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    assert grammar.accepts(call)
    assert not grammar.accepts(f"{call}\n{call}")


def test_without_parallel_calls_there_is_exactly_one() -> None:
    grammar = checker(request(tool_use=ToolUse((CLOCK,), required=True, parallel=False)), NATIVE)
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    assert grammar.accepts(call)
    assert not grammar.accepts(f"{call}\n{call}")


def test_tools_and_a_format_allow_either() -> None:
    asked = request(tool_use=ToolUse((CLOCK,)), response_format=ARRAY)
    grammar = checker(asked)
    assert grammar.accepts("[1, 2]")
    assert grammar.accepts('<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>')
    assert not grammar.accepts("It is late.")


def test_thinking_may_come_before_what_is_enforced() -> None:
    grammar = checker(request(response_format=ARRAY), THINKS)
    assert grammar.accepts("Hm, 1 < 2.\n</think>\n\n[1]")
    assert not grammar.accepts("[1]")


@pytest.mark.parametrize(("strict", "refused"), [(True, True), (False, False)])
def test_only_strict_tools_insist_on_every_constraint(strict: bool, refused: bool) -> None:
    odd = Tool("f", None, {"type": "object", "properties": {"a": {"not": {}}}}, strict)
    asked = request(tool_use=ToolUse((odd,), required=True))
    if not refused:
        assert checker(asked)
        return
    with pytest.raises(InvalidRequest, match="'f' cannot be enforced: at '/properties/a', 'not'") as error:
        checker(asked)
    assert error.value.param == "tools"


@pytest.mark.parametrize("required", [False, True])
def test_a_strict_tool_that_cannot_be_enforced_is_refused_whether_a_call_is_forced_or_not(
    required: bool,
) -> None:
    odd = Tool("f", None, {"type": "object", "properties": {"a": {"not": {}}}}, strict=True)
    with pytest.raises(InvalidRequest, match="'f' cannot be enforced: at '/properties/a', 'not'"):
        prepare(request(tool_use=ToolUse((CLOCK, odd), required=required)), template(NATIVE), "")


def test_tools_that_are_not_strict_are_not_looked_at_unless_a_call_is_forced() -> None:
    odd = Tool("f", None, {"type": "object", "properties": {"a": {"pattern": 5}}})
    assert prepare(request(tool_use=ToolUse((odd,))), template(NATIVE), "").grammar is None


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("source", [NATIVE, MESSAGES])
@pytest.mark.parametrize("given", ["string", ["array"], 5, [[]]])
def test_parameters_that_are_no_object_are_refused(required: bool, source: str, given: Any) -> None:
    odd = Tool("f", None, {"type": given})
    with pytest.raises(InvalidRequest, match="'f' should be a JSON Schema of type 'object'") as error:
        prepare(request(tool_use=ToolUse((odd,), required=required)), template(source), "")
    assert (error.value.param, error.value.code) == ("tools", "invalid_function_parameters")


def test_parameters_that_nest_too_deeply_are_refused_before_a_template_sees_them() -> None:
    schema: Any = {"type": "null"}
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    odd = Tool("f", None, {"type": "object", "properties": {"a": schema}})
    with pytest.raises(InvalidRequest, match="'f' cannot be used: at its root, its arrays and objects nest"):
        prepare(request(tool_use=ToolUse((odd,))), template(NATIVE), "")


def test_arguments_are_an_object_even_where_null_is_allowed() -> None:
    odd = Tool("f", None, {"type": ["object", "null"]})
    grammar = checker(request(tool_use=ToolUse((odd,), required=True)), NATIVE)
    assert grammar.accepts('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    assert not grammar.accepts('<tool_call>\n{"name": "f", "arguments": null}\n</tool_call>')


def test_a_schema_that_cannot_be_enforced_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'not' cannot be enforced") as error:
        checker(request(response_format=ResponseFormat({"not": {}})))
    assert (error.value.param, error.value.code) == ("response_format", "invalid_json_schema")


def test_template_variables_are_passed_on_and_unknown_ones_reported() -> None:
    chat = prepare(request(reasoning_effort="none", template_kwargs={"x": 1}), template(THINKS), "")
    assert chat.prompt.text.endswith("False<think>")
    assert chat.ignored == ("chat_template_kwargs.x",)
    assert chat.thinks_until == "</think>"
    assert prepare(request(reasoning_effort="low"), template(NATIVE), "").ignored == ("reasoning_effort",)
    with pytest.raises(InvalidRequest, match="'messages' is set by the server"):
        prepare(request(template_kwargs={"messages": []}), template(NATIVE), "")
    with pytest.raises(InvalidRequest, match="'self' is set by the server") as refused:
        prepare(request(template_kwargs={"self": 1}), template(NATIVE), "")
    assert refused.value.param == "chat_template_kwargs"


def test_variables_may_be_as_deep_as_a_request() -> None:
    deep: Any = []
    for _ in range(MAX_NESTING - 3):
        deep = [deep]
    prompt = prepare(request(template_kwargs={"x": deep}), template("{{ x | tojson }}" + MESSAGES), "").prompt
    assert "[" * (MAX_NESTING - 2) in prompt.text


def logprob(token: str) -> TokenLogprob:
    return TokenLogprob(token, -0.5, token.encode())


def test_log_probabilities_go_with_the_answer_and_not_with_the_thinking() -> None:
    reader = AnswerReader(0, None, None)
    events = reader.feed("<think>", [logprob("<think>")])
    events += reader.feed("hm", [logprob("hm")])
    events += reader.feed("</think>", [logprob("</think>")])
    events += reader.feed("4", [logprob("4")])
    assert events == [ReasoningDelta(0, "hm"), TextDelta(0, "4", (logprob("4"),))]
    assert reader.thought == "hm"


def test_log_probabilities_wait_for_text_that_is_held_back() -> None:
    reader = AnswerReader(0, None, ToolUse((CLOCK,)))
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
        reader = AnswerReader(0, None, ToolUse((CLOCK,)))
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
            reader = AnswerReader(0, None, ToolUse((CLOCK,)))
            reader.feed(text)
            assert reader.finish(reason)[1] == reason


def test_nothing_is_shown_of_a_required_call_that_was_cut_before_its_arguments() -> None:
    for text in ("<tool", '<tool_call>\n{"name": "get_ti', "<think>hm</think><tool_call>", "<thi"):
        reader = AnswerReader(0, None, ToolUse((CLOCK,), required=True))
        events = reader.feed(text, tokens(text))
        last, reason = reader.finish("length")
        assert [event for event in events + last if not isinstance(event, ReasoningDelta)] == []
        assert reason == "length"


def test_calls_end_an_answer_as_tool_calls_unless_it_was_cut() -> None:
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    for engine_reason, reason in (("stop", "tool_calls"), ("length", "length")):
        reader = AnswerReader(0, None, ToolUse((CLOCK,)))
        reader.feed(call)
        assert reader.finish(engine_reason)[1] == reason  # type: ignore[arg-type]
    assert AnswerReader(0, None, ToolUse((CLOCK,))).finish("stop")[1] == "stop"


def test_one_call_is_enough_where_parallel_ones_are_not_wanted() -> None:
    reader = AnswerReader(0, None, ToolUse((CLOCK,), parallel=False))
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    events = reader.feed(call + call)
    assert [event.call for event in events if isinstance(event, ToolCallDelta)] == [0, 0]
    assert reader.done
    assert reader.finish("length")[1] == "tool_calls"  # the tokens ran out behind what was wanted
