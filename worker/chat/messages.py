"""Conversations in the forms that chat templates accept, from the most faithful to the most plain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.protocol import nests_too_deep

Message = dict[str, Any]


def with_system_prompt(messages: Sequence[Mapping[str, Any]], system_prompt: str) -> list[Message]:
    """The default system prompt, where the client sent none."""
    copies = [dict(message) for message in messages]
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return copies
    return [{"role": "system", "content": system_prompt}, *copies]


def with_instructions(messages: Sequence[Message], instructions: Sequence[str]) -> list[Message]:
    """`instructions` at the end of the first system message."""
    if not instructions:
        return list(messages)
    copies = [dict(message) for message in messages]
    if not copies or copies[0]["role"] != "system":
        copies.insert(0, {"role": "system", "content": ""})
    copies[0]["content"] = "\n\n".join(text for text in (copies[0]["content"], *instructions) if text)
    return copies


def variants(messages: Sequence[Message], *, knows_tools: bool) -> Iterator[list[Message]]:
    """The same conversation for ever pickier templates; the first that a template accepts is the best."""
    uses_tools = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
    plain = tools_as_text(messages)
    if uses_tools and knows_tools:
        yield with_argument_objects(messages)
        yield list(messages)
        yield with_short_ids(with_argument_objects(messages))
    else:
        yield plain
    yield with_one_system_message(plain)
    yield with_alternating_roles(with_one_system_message(plain))
    yield with_alternating_roles(without_system_message(with_one_system_message(plain)))


def with_argument_objects(messages: Sequence[Message]) -> list[Message]:
    """Tool calls whose arguments are objects, as most templates want them, not JSON text."""
    return [_with_calls(message, _object_arguments) for message in messages]


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of nine letters and digits, which Mistral's templates insist on."""
    shortened = [
        _with_calls(message, lambda call: {**call, "id": _short_id(call["id"])}) for message in messages
    ]
    return [
        {**message, "tool_call_id": _short_id(message["tool_call_id"])}
        if "tool_call_id" in message
        else message
        for message in shortened
    ]


def tools_as_text(messages: Sequence[Message]) -> list[Message]:
    """Tool calls and their results as the text that the model is told to write and to expect."""
    names = {
        call["id"]: call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls") or ()
    }
    translated: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            result = {"name": names.get(message.get("tool_call_id")), "content": message["content"]}
            text = f"<tool_response>\n{json.dumps(result, ensure_ascii=False)}\n</tool_response>"
            translated.append({"role": "user", "content": text})
        elif message.get("tool_calls"):
            calls = [call_text(call["function"]) for call in message["tool_calls"]]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            translated.append({**rest, "content": "\n".join([message["content"], *calls]).lstrip("\n")})
        else:
            translated.append(message)
    return _merged(translated, lambda one, other: _is_response(one) and _is_response(other))


def call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": _parsed(function["arguments"])}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def with_one_system_message(messages: Sequence[Message]) -> list[Message]:
    """All system messages as one at the front."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest] if system else rest


def without_system_message(messages: Sequence[Message]) -> list[Message]:
    """The system message as the beginning of the first user message."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, rest = messages[0]["content"], list(messages[1:])
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system}, *rest]
    return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def with_alternating_roles(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of the same role as one message."""
    return _merged(messages, lambda one, other: one["role"] == other["role"])


def _merged(messages: Sequence[Message], belong: Any) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and belong(merged[-1], message):
            contents = (merged[-1]["content"], message["content"])
            merged[-1] = {**merged[-1], "content": "\n\n".join(text for text in contents if text)}
        else:
            merged.append(message)
    return merged


def _is_response(message: Message) -> bool:
    return message["role"] == "user" and str(message["content"]).startswith("<tool_response>\n")


def _with_calls(message: Message, change: Any) -> Message:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [change(call) for call in message["tool_calls"]]}


def _object_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _parsed(function["arguments"])}}


def _parsed(arguments: str) -> Any:
    """The arguments as an object; as they are, if they are none or no template could write it."""
    try:
        parsed = json.loads(arguments or "{}")
        json.dumps(parsed, ensure_ascii=False).encode()  # fails on a lone surrogate
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) and not nests_too_deep(parsed) else arguments


def _short_id(call_id: str) -> str:
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
