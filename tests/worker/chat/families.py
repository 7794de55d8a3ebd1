"""What the tests know of real chat templates: their tokens, and conversations of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.tiny_vocabulary import byte_pair_vocabulary, sentence_piece_vocabulary
from worker.llama.vocabulary import LlamaVocabulary

Message = dict[str, Any]
# What looks like a token in a template's text. Not each is one in its model's vocabulary, but it might be.
_TOKEN = re.compile(
    r"<\|[^|<>\s'\"]+\|?>|<[a-z_]+\|>|<\uff5c[^\uff5c<>]+\uff5c>|</?(?:s|start_of_turn|end_of_turn|bos|eos)>"
    r"|\[/?[A-Z_]{3,}\]|\]~!?b[\[\]]|\[e~\["
)
_USER_DEFINED = re.compile(
    r"</?(?:think|tool_call|tool_response|tools|seed:[a-z_]+|minimax:[a-z_]+)>|\uff5cDSML\uff5c|<\|\"\|>"
    r"|\]<\]minimax\[>\[|\[BEGIN FINAL RESPONSE\]"
)
MAKERS: dict[str, Callable[..., LlamaVocabulary]] = {
    "byte pairs": byte_pair_vocabulary,
    "sentence pieces": sentence_piece_vocabulary,
}


def tokens_of(template: str) -> tuple[list[str], list[str]]:
    """Control tokens and user-defined ones."""
    user_defined = sorted({match.group() for match in _USER_DEFINED.finditer(template)})
    control = {match.group() for match in _TOKEN.finditer(template)} | {"<s>", "</s>"}
    return sorted(control - set(user_defined)), user_defined


def vocabulary_of(template: str, folder: Path, kind: str = "byte pairs") -> LlamaVocabulary:
    return MAKERS[kind](folder / "v.gguf", *tokens_of(template))


def user(content: str, **more: Any) -> Message:
    return {"role": "user", "content": content, **more}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def assistant(content: str, *calls: Message, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def call(call_id: str, name: str, **arguments: Any) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def result(call_id: str, content: str) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name"},
                "days": {"type": ["integer", "null"]},
                "units": {"type": "string", "enum": ["celsius", "kelvin"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}  # the API asks for no more than that
TOOLS = [WEATHER, CLOCK]

_SYSTEM, _HI, _HELLO, _MORE = (
    system("Obey rule seven."),
    user("Alpha, one?"),
    assistant("Beta, two."),
    user("Gamma, three?"),
)
_PARIS = call("call_1", "get_weather", city="Paris-upon-Seine")
_ROME = call("call_2", "get_weather", city="Rome-upon-Tiber")
_NESTED = call(
    "call_1",
    "get_weather",
    city='Say "caf\u00e9"\nnow',
    more={"deep": ["inner", 42]},
    flag=True,
    none=None,
    x=1.5,
)
_SUN, _RAIN = result("call_1", "sunny there"), result("call_2", "rainy there")

CHATS: dict[str, list[Message]] = {
    "user": [_HI],
    "system": [_SYSTEM, _HI],
    "several turns": [_SYSTEM, _HI, _HELLO, _MORE],
    "system in between": [_HI, _HELLO, _SYSTEM, _MORE],
    "two systems": [_SYSTEM, system("Obey rule eight."), _HI],
    "two users": [_HI, _MORE],
    "two assistants": [_HI, _HELLO, assistant("Delta, four."), _MORE],
    "assistant first": [_HELLO, _MORE],
    "system, then assistant": [_SYSTEM, _HELLO, _MORE],
    "assistant last": [_HI, _HELLO],
    "system only": [_SYSTEM],
    "content in parts": [{"role": "user", "content": [{"type": "text", "text": "Alpha, one?"}]}],
    "developer": [{"role": "developer", "content": "Obey rule seven."}, _HI],
    "reasoning": [_HI, assistant("Beta, two.", reasoning_content="Hm."), _MORE],
}
AGENTS: dict[str, list[Message]] = {
    "call": [_HI, assistant("", _PARIS), _SUN],
    "call without content": [_HI, {"role": "assistant", "content": None, "tool_calls": [_PARIS]}, _SUN],
    "text and call": [_SYSTEM, _HI, assistant("I look it up.", _PARIS), _SUN, assistant("It shines."), _MORE],
    "parallel": [_HI, assistant("", _PARIS, _ROME), _SUN, _RAIN, assistant("Sun, rain."), _MORE],
    "parallel, results swapped": [_SYSTEM, _HI, assistant("Both.", _PARIS, _ROME), _RAIN, _SUN],
    "one after the other": [_HI, assistant("", _PARIS), _SUN, assistant("", _ROME), _RAIN],
    "no arguments": [_HI, assistant("", call("call_1", "get_time")), result("call_1", "noon already")],
    "nested arguments": [_HI, assistant("", _NESTED), result("call_1", '{"degrees": 21}')],
    "thought before": [_HI, assistant("", _PARIS, reasoning_content="I need the weather."), _SUN],
}


def conversations() -> Iterator[tuple[str, list[Message], list[Message] | None]]:
    """Name, messages and tools of everything that OpenAI's API allows."""
    for name, messages in CHATS.items():
        yield name, messages, None
        yield f"{name}, with tools", messages, TOOLS
    for name, messages in AGENTS.items():
        yield name, messages, TOOLS
        yield f"{name}, tools gone", messages, None
