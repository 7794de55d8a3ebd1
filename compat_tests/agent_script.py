"""A model that answers by a script, for clients that need a cleverer one than a test can have.

First it calls one of the tools that it is offered; once it has a result it answers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from tests.serving import ScriptedBackend
from worker.protocol import (
    Accepted,
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    ModelInfo,
    TextDelta,
    ToolCallDelta,
    Usage,
)

ANSWER = "The answer is forty-two."
COMMAND = "echo told by a tool"
RESULTS = ("told by a tool", "Sun in Paris", "current_timestamp")
# What the clients of the recipes call their tools.
CALLS: dict[str, dict[str, Any]] = {
    "get_weather": {"city": "Paris"},
    "get_current_timestamp": {},  # Open WebUI
    "exec_command": {"cmd": COMMAND},  # Codex
    "shell": {"command": ["sh", "-c", COMMAND]},
    "Bash": {"command": COMMAND, "description": "Say it"},  # Claude Code, Continue
    "bash": {"command": COMMAND, "description": "Say it"},  # opencode
}


def scripted_agent(context_length: int = 32768) -> ScriptedBackend:
    return ScriptedBackend(
        script=call_then_answer, served=[ModelInfo("SmolLM2-135M-Instruct", 1700000000, context_length)]
    )


async def call_then_answer(
    backend: ScriptedBackend, request: ChatRequest | CompletionRequest
) -> AsyncGenerator[list[Event]]:
    yield [Accepted(100)]
    name = tool_to_call(request) if isinstance(request, ChatRequest) else None
    if name:
        yield [ToolCallDelta(0, 0, id="call_1", name=name)]
        yield [ToolCallDelta(0, 0, json.dumps(CALLS[name]))]
        yield [Finished(0, "tool_calls")]
    else:
        for word in ANSWER.split(" "):
            yield [TextDelta(0, f"{word} ")]
        yield [Finished(0, "stop")]
    yield [Usage(100, 6)]


def tool_to_call(request: ChatRequest) -> str | None:
    """None once a result is there, and where no tool is known."""
    offered = [tool["function"]["name"] for tool in request.tools]
    known = [name for name in CALLS if name in offered]
    return None if not known or tool_results(request) else known[0]


def tool_results(request: ChatRequest) -> list[str]:
    return [str(message["content"]) for message in request.messages if message["role"] == "tool"]


def tools_ran(backend: ScriptedBackend) -> bool:
    """Whether a tool's real result came back."""
    chats = [request for request in backend.requests if isinstance(request, ChatRequest)]
    results = [result for chat in chats for result in tool_results(chat)]
    return any(known in result for result in results for known in RESULTS)
