"""Whether messages are what Anthropic's own types say, whole and as events, with nothing missing or odd."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from compat_tests.strict import check_no_extras
from compat_tests.strict_responses import named_events

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
DELTAS["tool_use"] = ("input_json_delta", "partial_json")


def message(body: Mapping[str, Any]) -> Message:
    """A whole message that has come to its end."""
    parsed = Message.model_validate_json(json.dumps(body), strict=True)
    check_no_extras(parsed)
    assert parsed.stop_reason is not None
    assert (parsed.stop_sequence is not None) == (parsed.stop_reason == "stop_sequence")
    called = any(block.type == "tool_use" for block in parsed.content)
    assert called or parsed.stop_reason != "tool_use"
    return parsed


def stream(answer: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a stream, and the message that they add up to."""
    events = [event for event in named_events(answer) if event["type"] != "ping"]
    for event in events:
        check_no_extras(EVENT.validate_json(json.dumps(event), strict=True))
    start, *blocks, delta, stop = events
    ends = [event["type"] for event in (start, delta, stop)]
    assert ends == ["message_start", "message_delta", "message_stop"]
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    content: list[dict[str, Any]] = []
    while blocks:
        end = next(i for i, event in enumerate(blocks) if event["type"] == "content_block_stop") + 1
        assert {event["index"] for event in blocks[:end]} == {len(content)}
        content.append(block(blocks[:end]))
        blocks = blocks[end:]
    usage = start["message"]["usage"] | delta["usage"]
    body = {**start["message"], "content": content, "usage": usage, **delta["delta"]}
    message(body)
    return events, body


def block(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Started first and empty, stopped last, grown by deltas of its own kind between."""
    assert events[0]["type"] == "content_block_start"
    started: dict[str, Any] = events[0]["content_block"]
    kind, field = DELTAS[started["type"]]
    deltas = [event["delta"] for event in events[1:-1]]
    grown = "".join(delta[field] for delta in deltas if delta["type"] == kind)
    others = [delta for delta in deltas if delta["type"] != kind]
    match started["type"]:
        case "text":
            assert (started["text"], others) == ("", [])
            return {**started, "text": grown}
        case "thinking":
            assert (started["thinking"], started["signature"]) == ("", "")
            (signature,) = others
            assert deltas[-1] == signature
            return {**started, "thinking": grown, "signature": signature["signature"]}
        case _:
            assert (started["input"], others) == ({}, [])
            return {**started, "input": json.loads(grown or "{}")}


def error(response: httpx.Response) -> dict[str, Any]:
    """The envelope of a failure."""
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    if response.status_code != 413:  # of which the SDK's own types know nothing
        ErrorResponse.model_validate_json(response.text, strict=True)
    assert body["request_id"] == response.headers["request-id"]
    detail: dict[str, Any] = body["error"]
    assert detail["message"]
    return detail
