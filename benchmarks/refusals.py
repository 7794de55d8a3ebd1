"""What odd requests cost, and what others feel of them: python -m benchmarks.refusals http://127.0.0.1:8000

Each is sent alone to a running server, while one thread asks for /health (the event loop) and another for the
first token of a short chat (the engine). Printed: status, seconds to the answer, and the slowest of either.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

CHATS = "/v1/chat/completions"
SECONDS = 120.0


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def text_object(num_properties: int, *, required: bool) -> dict[str, Any]:
    names = [f"p{i}" for i in range(num_properties)]
    properties = {name: {"type": "string"} for name in names}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": names} if required else schema


def held_to(schema: dict[str, Any]) -> dict[str, Any]:
    json_schema = {"name": "x", "schema": schema}
    return {"messages": user("x"), "response_format": {"type": "json_schema", "json_schema": json_schema}}


def tools(num: int) -> list[dict[str, Any]]:
    parameters = text_object(3, required=True)
    return [{"type": "function", "function": {"name": f"t{i}", "parameters": parameters}} for i in range(num)]


def calls(num: int) -> list[dict[str, Any]]:
    ids = [f"c{i}" for i in range(num)]
    function = {"name": "t", "arguments": "{}"}
    made = [{"id": id, "type": "function", "function": function} for id in ids]
    results = [{"role": "tool", "tool_call_id": id, "content": "r"} for id in ids]
    return [*user("x"), {"role": "assistant", "content": None, "tool_calls": made}, *results]


WORDS = {
    "type": "object",
    "properties": {"a": {"enum": [f"word{i}x" for i in range(600)]}},
    "required": ["a"],
}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "400 messages": (CHATS, {"messages": user("hi") * 400}),
    "10,000 messages": (CHATS, {"messages": user("x") * 10_000}),
    "5,000 turns": (CHATS, {"messages": [*user("x"), {"role": "assistant", "content": "y"}] * 2500}),
    "35,000 control tokens": (CHATS, {"messages": user("<|im_start|>" * 35_000)}),
    "70,000 control tokens": (CHATS, {"messages": user("<|im_start|>" * 70_000)}),
    "70,000 control characters": (CHATS, {"messages": user("\x01" * 70_000)}),
    "20,000 openings": (CHATS, {"messages": user("<" * 20_000)}),
    "10,000 parts": (
        CHATS,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 10_000}]},
    ),
    "10,000 calls": (CHATS, {"messages": calls(10_000)}),
    "1 MB of words": (CHATS, {"messages": user("lorem ipsum " * 90_000)}),
    "4 MB of one letter": (CHATS, {"messages": user("a" * 3_900_000)}),
    "an enum of 600": (CHATS, held_to(WORDS)),
    "280 optional": (CHATS, held_to(text_object(280, required=False))),
    "1,000 required": (CHATS, held_to(text_object(1000, required=True))),
    "(a|a)*b": (CHATS, {"messages": user("x"), "guided_regex": "(a|a)*b"}),
    "(.{1,500}){1,500}x": (CHATS, {"messages": user("x"), "guided_regex": "(.{1,500}){1,500}x"}),
    "128 tools": (CHATS, {"messages": user("x"), "tools": tools(128)}),
    "2,000 tools": (CHATS, {"messages": user("x"), "tools": tools(2000)}),
    "30,000 biases": (CHATS, {"messages": user("x"), "logit_bias": {str(i): 1 for i in range(30_000)}}),
    "4 long stops": (CHATS, {"messages": user("x"), "stop": ["x" * 50_000] * 4}),
    "10,000 items": ("/v1/responses", {"input": user("x") * 10_000}),
    "10,000 of Anthropic's": ("/v1/messages", {"messages": user("x") * 10_000}),
    "5,000 prompts": ("/v1/completions", {"prompt": ["x"] * 5000}),
}


@dataclass
class Probe:
    """Asks again and again, and keeps the longest wait since `slowest` was last set to 0."""

    ask: Callable[[httpx.Client], object]
    slowest: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(timeout=SECONDS) as client:
            while not self.stopped.wait(0.02):
                started = time.perf_counter()
                self.ask(client)
                self.slowest = max(self.slowest, time.perf_counter() - started)


def measure(url: str) -> None:
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        short = {"model": model, "messages": user("hi"), "max_tokens": 2}
        loop = Probe(lambda each: each.get(f"{url}/health").raise_for_status())
        engine = Probe(lambda each: each.post(url + CHATS, json=short).raise_for_status())
        threads = [threading.Thread(target=probe.run) for probe in (loop, engine)]
        for thread in threads:
            thread.start()
        print("| request | status | s | others: /health, ms | a short chat, ms |")
        print("| --- | --- | --- | --- | --- |")
        try:
            for name, (route, body) in REQUESTS.items():
                loop.slowest = engine.slowest = 0.0
                started = time.perf_counter()
                limit = "max_output_tokens" if route == "/v1/responses" else "max_tokens"
                status = client.post(route, json={"model": model, limit: 16, **body}).status_code
                seconds = time.perf_counter() - started
                time.sleep(0.3)  # for those who waited
                waits = f"{loop.slowest * 1000:.0f} | {engine.slowest * 1000:.0f}"
                print(f"| {name} | {status} | {seconds:.2f} | {waits} |", flush=True)
        finally:
            for probe in (loop, engine):
                probe.stopped.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    measure(sys.argv[1].rstrip("/"))
