"""Tool calls as models really write them, read from text that may be cut anywhere."""

from __future__ import annotations

import json

import pytest

from worker.chat.formats.families import HERMES
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted, Content
from worker.chat.formats.reader import FormatReader

TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
    "get_time": None,
}
PARIS = '{"city": "Paris"}'

Outcome = tuple[str, list[tuple[str, str]]]


def parse(chunks: list[str]) -> Outcome:
    """The content, and each call's name and arguments. Checks that every call is started and ended once."""
    parser = FormatReader(HERMES, TOOLS)
    parts = [part for chunk in chunks for part in parser.feed(chunk)] + parser.finish()
    content, calls, is_open = "", [], False
    for part in parts:
        match part:
            case Content(text, start):
                assert not is_open
                assert text
                assert text == "".join(chunks)[start : start + len(text)]
                content += text
            case CallStarted(name):
                assert not is_open
                calls.append((name, ""))
                is_open = True
            case CallArguments(text):
                assert is_open
                assert text
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case CallEnded():
                assert is_open
                is_open = False
    assert not is_open
    return content, calls


# What models wrote, with the content and calls in it.
RECORDED: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "hermes": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "hermes, arguments first": (
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "qwen, two calls after a sentence": (
        'Let me look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n',
        "Let me look.",
        [("get_weather", PARIS), ("get_time", "{}")],
    ),
    "smollm2, a list in one": (
        '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_time", "arguments": {"zone": "CET"}}]</tool_call>',
        "",
        [("get_weather", PARIS), ("get_time", '{"zone": "CET"}')],
    ),
    "qwen3-coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", '{"city": "Paris", "days": 3}')],
    ),
    "llama 3.1": (
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}<|eom_id|>',
        "",
        [("get_weather", PARIS)],
    ),
    "llama 3.1, custom function": (
        '<function=get_weather>{"city": "Paris"}</function>',
        "",
        [("get_weather", PARIS)],
    ),
    "llama 3.2, bare": (
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        "",
        [("get_weather", PARIS)],
    ),
    "llama 3.2, two bare": (
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "get_time", "parameters": {}}',
        "",
        [("get_weather", PARIS), ("get_time", "{}")],
    ),
    "mistral v3": (
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a1b2c3d4e"}]',
        "",
        [("get_weather", PARIS)],
    ),
    "mistral v11": (
        '[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}[TOOL_CALLS]get_time[ARGS]{}',
        "",
        [("get_weather", PARIS), ("get_time", "{}")],
    ),
    "granite": (
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        "",
        [("get_weather", PARIS)],
    ),
    "fenced json": (
        '```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```',
        "",
        [("get_weather", PARIS)],
    ),
    "arguments as a string": (
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "no arguments": ('<tool_call>{"name": "get_time"}</tool_call>', "", [("get_time", "{}")]),
    "null arguments": (
        '<tool_call>{"name": "get_time", "arguments": null}</tool_call>',
        "",
        [("get_time", "{}")],
    ),
    "braces, quotes and markers in strings": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "}{\\"]</tool_call>\\\\"}}</tool_call>',
        "",
        [("get_weather", '{"city": "}{\\"]</tool_call>\\\\"}')],
    ),
    "other languages": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "東京 🗼"}}</tool_call>',
        "",
        [("get_weather", '{"city": "東京 🗼"}')],
    ),
    "text after the call": (
        '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>\nOne moment.',
        "\nOne moment.",
        [("get_time", "{}")],
    ),
    "plain text": ("The sky is blue.\n\nIndeed. ", "The sky is blue.\n\nIndeed. ", []),
    "an answer in json": ('{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    "an answer that names a tool": ('{"name": "get_time"}', '{"name": "get_time"}', []),
    "a list": ('["a", "b"]', '["a", "b"]', []),
    "a citation": ("[1] says so", "[1] says so", []),
    "code": ("```json\n[1, 2]\n```", "```json\n[1, 2]\n```", []),
    "a tool that is not offered": (
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        [],
    ),
    "not json": ("<tool_call>what?</tool_call>", "<tool_call>what?</tool_call>", []),
    "markup that is no call": ("a <tool> and <b>", "a <tool> and <b>", []),
    "cut inside the name": ('<tool_call>{"name": "get_w', '<tool_call>{"name": "get_w', []),
    "cut inside the arguments": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Pa',
        "",
        [("get_weather", '{"city": "Pa')],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_format_is_read_whole_and_cut_anywhere(name: str) -> None:
    text, content, calls = RECORDED[name]
    assert parse([text]) == (content, calls)
    assert parse(list(text)) == (content, calls)
    for at in range(1, len(text)):
        assert parse([text[:at], text[at:]]) == (content, calls), text[:at]


def test_arguments_are_handed_out_while_they_are_written() -> None:
    parser = FormatReader(HERMES, TOOLS)
    parser.feed('<tool_call>{"name": "get_weather", "arguments": ')
    assert parser.feed('{"city": "Pa') == [CallStarted("get_weather"), CallArguments('{"city": "Pa')]
    assert parser.feed("ris") == [CallArguments("ris")]


def test_text_is_not_held_back_longer_than_it_might_be_a_call() -> None:
    parser = FormatReader(HERMES, TOOLS)
    assert parser.feed("Hello") == [Content("Hello", 0)]
    assert parser.feed(" you <tool") == [Content(" you", 5)]
    assert parser.feed("box>") == [Content(" <toolbox>", 9)]


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Pa', False),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"', False),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}', True),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}', True),
        ('[TOOL_CALLS]get_weather[ARGS]{"city": {', False),
        ('[TOOL_CALLS]get_weather[ARGS]{"city": {}}', True),
    ],
)
def test_a_call_is_complete_once_its_arguments_are(text: str, complete: bool) -> None:
    parser = FormatReader(HERMES, TOOLS)
    parts = [*parser.feed(text), *parser.finish()]
    assert parts[-1] == CallEnded(complete)


def test_handed_out_arguments_are_valid_json() -> None:
    for text, _, calls in RECORDED.values():
        if calls and not text.endswith("Pa"):
            assert all(isinstance(json.loads(arguments), dict) for _, arguments in parse([text])[1])
