"""Whether responses are what OpenAI's own types say, whole and as events, with nothing missing or odd."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from compat_tests.strict import check_no_extras

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
LAST = {"response.completed", "response.incomplete", "response.failed"}


def response(body: Mapping[str, Any]) -> Response:
    """A whole response that has come to its end."""
    parsed = Response.model_validate_json(json.dumps(body), strict=True)
    check_no_extras(parsed)
    assert body["status"] in {"completed", "incomplete"}
    assert (body["incomplete_details"] is None) == (body["status"] == "completed")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return parsed


def named_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The data of a stream whose events have their types as names."""
    assert answer.headers["content-type"].split(";")[0] == "text/event-stream"
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    events = []
    for frame in frames:
        if not frame.startswith(":"):
            name, data = frame.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events


def stream(answer: httpx.Response) -> tuple[list[dict[str, Any]], Response]:
    """The events of a stream and its response, which is what they add up to."""
    events = named_events(answer)
    for event in events:
        check_no_extras(EVENT.validate_json(json.dumps(event), strict=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] in LAST for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]["response"]
    for index, item in enumerate(last["output"]):
        check_item(item, [event for event in events if event.get("output_index") == index])
    return events, response(last)


def check_item(item: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
    """Added first, done last, grown by deltas between, and always under the same id."""
    assert events[0]["type"] == "response.output_item.added"
    assert events[0]["item"]["status"] == "in_progress"
    assert events[-1]["type"] == "response.output_item.done"
    assert events[-1]["item"] == item
    assert {event["item_id"] for event in events[1:-1]} <= {item["id"]} == {events[0]["item"]["id"]}
    grown = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
    parts = [*item.get("content", ()), *item.get("summary", ())]
    assert grown == item.get("arguments", "".join(part["text"] for part in parts))
