"""Conversations in the shapes that chat templates accept. Functions give copies and change nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from worker.protocol import InvalidRequest, nests_too_deep

Message = dict[str, Any]

_ROLES = {"developer": "system", "function": "tool"}  # newer and older names of what templates know


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


def normalized(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """What templates expect of every message: one of four roles, and content that is one text.

    Results get the name of what was called, which the API leaves out and some templates ask for.
    """
    names: dict[Any, Any] = {}
    copies: list[Message] = []
    for message in messages:
        copy = {key: value for key, value in message.items() if value is not None and value != []}
        copy["role"] = _ROLES.get(message["role"], message["role"])
        copy["content"] = _text(message.get("content"))
        if "tool_calls" in copy:
            copy["tool_calls"] = [_call(call, number) for number, call in enumerate(copy["tool_calls"])]
            names |= {call["id"]: call["function"]["name"] for call in copy["tool_calls"]}
        elif copy["role"] == "tool" and copy.get("tool_call_id") in names:
            copy.setdefault("name", names[copy["tool_call_id"]])
        copies.append(copy)
    return copies


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not all(isinstance(part, str) or part.get("type") in ("text", "refusal") for part in content):
        raise InvalidRequest("This model reads text only, no images, audio or files.", "messages")
    return "\n".join(part if isinstance(part, str) else part[part["type"]] for part in content)


def _call(call: Mapping[str, Any], number: int) -> Message:
    function, arguments = call["function"], call["function"].get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call_id = call.get("id") or f"call_{number}"
    return {**call, "id": call_id, "type": "function", "function": {**function, "arguments": text}}


def with_argument_objects(messages: Sequence[Message]) -> list[Message]:
    """Tool calls whose arguments are objects, as most templates want them, not JSON text."""
    return [_with_calls(message, _object_arguments) for message in messages]


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of nine letters and digits, which Mistral's templates insist on."""
    shortened = [
        _with_calls(message, lambda call: call | {"id": _short_id(call["id"])}) for message in messages
    ]
    return [
        message | {"tool_call_id": _short_id(message["tool_call_id"])}
        if "tool_call_id" in message
        else message
        for message in shortened
    ]


def with_text_before_calls(messages: Sequence[Message]) -> list[Message]:
    """What an assistant says beside its calls as a message of its own, for templates that forget it."""
    separated: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            separated.append({"role": message["role"], "content": message["content"]})
            message = message | {"content": ""}
        separated.append(message)
    return separated


def with_text_after_calls(messages: Sequence[Message]) -> list[Message]:
    """The same, said at the beginning of what the assistant says next, if it says anything more."""
    moved: list[Message] = []
    calling: int | None = None
    for message in messages:
        if message["role"] == "user":
            calling = None
        elif message.get("tool_calls") and message["content"]:
            calling = len(moved)
        elif message["role"] == "assistant" and message["content"] and calling is not None:
            text, moved[calling] = moved[calling]["content"], moved[calling] | {"content": ""}
            message, calling = message | {"content": f"{text}\n\n{message['content']}"}, None
        moved.append(message)
    return moved


def with_single_calls(messages: Sequence[Message]) -> list[Message]:
    """Calls made at once as if made one after the other, each followed by its result."""
    separated: list[Message] = []
    calling: Message | None = None
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result and calling is not None:
            separated += _single_calls(separated.pop(), list(group))
        else:
            separated += group
        calling = None if is_result or len(separated[-1].get("tool_calls", ())) < 2 else separated[-1]
    return separated[:-1] + list(_single_calls(separated[-1], [])) if calling else separated


def _single_calls(calling: Message, results: Sequence[Message]) -> Iterator[Message]:
    left: dict[Any, list[Message]] = {}
    for result in results:
        left.setdefault(result.get("tool_call_id"), []).append(result)
    message = calling
    for call in calling["tool_calls"]:
        yield message | {"tool_calls": [call]}
        yield from left.pop(call["id"], ())
        message = {"role": calling["role"], "content": ""}
    for of_no_call in left.values():
        yield from of_no_call


def with_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Tool calls as the text that a model without a format of its own is told to write."""
    translated: list[Message] = []
    for message in messages:
        calls = [call_text(call["function"]) for call in message.get("tool_calls", ())]
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        translated.append(
            rest | {"content": "\n".join([message["content"], *calls]).lstrip("\n")} if calls else rest
        )
    return translated


def with_results_as_text(messages: Sequence[Message]) -> list[Message]:
    """Results as what a user says; those of calls made at once as one message."""
    translated: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            translated.append({"role": "user", "content": "\n\n".join(map(_result_text, group))})
        else:
            translated += group
    return translated


def call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _result_text(message: Message) -> str:
    result = {"name": message.get("name"), "content": message["content"]}
    return f"<tool_response>\n{json.dumps(result, ensure_ascii=False)}\n</tool_response>"


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
    return [rest[0] | {"content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def with_user_first(messages: Sequence[Message]) -> list[Message]:
    """A user who has not said anything, where the assistant begins or nobody else speaks."""
    num_system = 1 if messages and messages[0]["role"] == "system" else 0
    if len(messages) > num_system and messages[num_system]["role"] == "user":
        return list(messages)
    return [*messages[:num_system], {"role": "user", "content": ""}, *messages[num_system:]]


def with_alternating_roles(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of the same role as one message, calls included; results are left as they are."""
    merged: list[Message] = []
    for role, group in groupby(messages, lambda message: message["role"]):
        same = list(group)
        merged += same if role == "tool" else [_merged(same)]
    return merged


def _merged(messages: list[Message]) -> Message:
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    content = "\n\n".join(message["content"] for message in messages if message["content"])
    return {**messages[0], "content": content, **({"tool_calls": calls} if calls else {})}


def _with_calls(message: Message, change: Any) -> Message:
    if not message.get("tool_calls"):
        return message
    return message | {"tool_calls": [change(call) for call in message["tool_calls"]]}


def _object_arguments(call: Message) -> Message:
    function = call["function"]
    return call | {"function": function | {"arguments": _parsed(function["arguments"])}}


def _parsed(arguments: str) -> Any:
    """The arguments as an object; as they are, if they are none or no template could write it."""
    try:
        parsed = json.loads(arguments)
        json.dumps(parsed, ensure_ascii=False).encode()  # fails on a lone surrogate
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) and not nests_too_deep(parsed) else arguments


def _short_id(call_id: str) -> str:
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]
