"""Whether an answer is what OpenAI's own types say, with nothing missing, nothing odd, in the right order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

# What this API adds to OpenAI's, as other servers do; and what OpenAI's own sends, though the types lack it.
EXTENSIONS = {"frequency_penalty", "presence_penalty", "reasoning_content", "store", "bytes"}
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def completion(body: Mapping[str, Any]) -> ChatCompletion:
    """A whole chat completion."""
    parsed = ChatCompletion.model_validate(body, strict=True)
    check_no_extras(parsed)
    for index, choice in enumerate(body["choices"]):
        assert choice["index"] == index
        assert {"index", "message", "logprobs", "finish_reason"} == set(choice)
        assert {"role", "content", "refusal"} <= set(choice["message"])
        assert choice["finish_reason"] in FINISH_REASONS
        called = bool(choice["message"].get("tool_calls"))
        assert called or choice["message"]["content"] is not None or "function_call" in choice["message"]
        assert called or choice["finish_reason"] != "tool_calls"
    check_usage(body["usage"])
    return parsed


def text_completion(body: Mapping[str, Any]) -> Completion:
    parsed = Completion.model_validate(body, strict=True)
    check_no_extras(parsed)
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    check_usage(body["usage"])
    return parsed


def stream(response: httpx.Response, *, include_usage: bool = False) -> list[ChatCompletionChunk]:
    """A stream from its bytes: framing, order, and that its deltas add up to one message per choice."""
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    frames = data_frames(response.text)
    chunks = [ChatCompletionChunk.model_validate(frame, strict=True) for frame in frames]
    for chunk in chunks:
        check_no_extras(chunk)
    assert len({(frame["id"], frame["created"], frame["model"]) for frame in frames}) == 1
    if include_usage:
        *frames, last = frames
        assert last["choices"] == []
        check_usage(last["usage"])
        assert all(frame["usage"] is None for frame in frames)
    else:
        assert all("usage" not in frame for frame in frames)
    for index in sorted({choice["index"] for frame in frames for choice in frame["choices"]}):
        check_choice([choice for frame in frames for choice in frame["choices"] if choice["index"] == index])
    return chunks


def data_frames(text: str) -> list[dict[str, Any]]:
    """The data of a stream that ends with [DONE]; comments are heartbeats, other lines are not allowed."""
    events = text.split("\n\n")
    assert events.pop() == ""
    data = [event for event in events if not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in data), data
    assert data[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in data[:-1]]


def check_choice(parts: Sequence[Mapping[str, Any]]) -> None:
    """The role first, then growth, then one finish reason and nothing after it."""
    assert all({"index", "delta", "logprobs", "finish_reason"} == set(part) for part in parts)
    assert parts[0]["delta"] == {"role": "assistant", "content": ""}
    assert [part["finish_reason"] is None for part in parts] == [True] * (len(parts) - 1) + [False]
    assert parts[-1]["delta"] == {}
    assert parts[-1]["finish_reason"] in FINISH_REASONS
    assert all(part["delta"] and "role" not in part["delta"] for part in parts[1:-1])
    open_call = -1
    for call in (call for part in parts for call in part["delta"].get("tool_calls", ())):
        if call["index"] == open_call:
            assert set(call) == {"index", "function"}
            assert set(call["function"]) == {"arguments"}
        else:
            open_call += 1
            assert call["index"] == open_call
            assert set(call) == {"index", "id", "type", "function"}
            assert call["function"] == {"name": call["function"]["name"], "arguments": ""}
    assert (open_call >= 0) or parts[-1]["finish_reason"] != "tool_calls"


def check_usage(usage: Mapping[str, Any]) -> None:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    assert 0 <= usage["completion_tokens_details"]["reasoning_tokens"] <= usage["completion_tokens"]


def check_no_extras(model: BaseModel) -> None:
    """No field that OpenAI's types do not know, however deep."""
    assert set(model.model_extra or {}) <= EXTENSIONS, model.model_extra
    for name in type(model).model_fields:
        value = getattr(model, name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, BaseModel):
                check_no_extras(item)


def error(response: httpx.Response) -> dict[str, Any]:
    """The envelope with all four keys, and the request's id in its message."""
    body = response.json()
    assert set(body) == {"error"}
    envelope: dict[str, Any] = body["error"]
    assert set(envelope) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"] in envelope["message"]
    return envelope
