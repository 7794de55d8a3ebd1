"""OpenAI's `chat.completion` and its chunks, for programs that use the worker as a library."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from worker.chat.answer import Answer, Choice, blocking_events
from worker.protocol import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)


def chat_completion_chunks(choices: Sequence[Choice], model: str) -> Iterator[dict[str, Any]]:
    """`chat.completion.chunk`s as the answer is written; blocks for each."""
    frame = _frame("chat.completion.chunk", model)
    for index in range(len(choices)):
        yield {**frame, "choices": [_choice(index, {"role": "assistant", "content": ""})]}
    for events in blocking_events(choices):
        for event in events:
            if choice := _chunk_choice(event):
                yield {**frame, "choices": [choice]}


def chat_completion(answer: Answer, model: str) -> dict[str, Any]:
    """The whole answer, once it is written."""
    messages = [_empty_message() for _ in range(len(answer.choices))]
    reasons: dict[int, str] = {}
    logprobs: dict[int, list[TokenLogprob]] = {index: [] for index in range(len(answer.choices))}
    for events in blocking_events(answer.choices):
        for event in events:
            match event:
                case Finished():
                    reasons[event.index] = event.reason
                case TextDelta():
                    messages[event.index]["content"] += event.text
                    logprobs[event.index] += event.logprobs
                case ReasoningDelta():
                    message = messages[event.index]
                    message["reasoning_content"] = message.get("reasoning_content", "") + event.text
                case ToolCallDelta():
                    _grow_call(messages[event.index].setdefault("tool_calls", []), event)
    choices = [
        {
            "index": index,
            "message": _without_empty_content(message),
            "logprobs": _logprobs(logprobs[index]),
            "finish_reason": reasons[index],
        }
        for index, message in enumerate(messages)
    ]
    return {**_frame("chat.completion", model), "choices": choices, "usage": _usage(answer.usage())}


def _frame(kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _chunk_choice(event: Event) -> dict[str, Any] | None:
    match event:
        case TextDelta():
            return _choice(event.index, {"content": event.text}, logprobs=_logprobs(event.logprobs))
        case ReasoningDelta():
            return _choice(event.index, {"reasoning_content": event.text})
        case ToolCallDelta():
            call = {"index": event.call, "function": {"arguments": event.arguments}}
            if event.id is not None:
                call |= {"id": event.id, "type": "function"}
                call["function"] = {"name": event.name, "arguments": event.arguments}
            return _choice(event.index, {"tool_calls": [call]})
        case Finished():
            return _choice(event.index, {}, event.reason)
        case _:
            return None


def _empty_message() -> dict[str, Any]:
    return {"role": "assistant", "content": "", "refusal": None}


def _without_empty_content(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": message["content"] or (None if "tool_calls" in message else "")}


def _grow_call(calls: list[dict[str, Any]], delta: ToolCallDelta) -> None:
    if delta.id is not None:
        function = {"name": delta.name, "arguments": ""}
        calls.append({"id": delta.id, "type": "function", "function": function})
    calls[delta.call]["function"]["arguments"] += delta.arguments


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [{**_logprob(token), "top_logprobs": [_logprob(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
