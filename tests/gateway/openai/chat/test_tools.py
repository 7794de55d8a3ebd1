"""How tools reach the worker."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.gateway.openai.chat.asking import TIME, WEATHER, asked
from tests.serving import ScriptedBackend

NAMED = {"type": "function", "function": {"name": "get_time"}}
CHOICES: list[tuple[dict[str, Any], list[dict[str, Any]], str, bool]] = [
    ({}, [WEATHER, TIME], "auto", True),
    ({"tool_choice": "auto", "parallel_tool_calls": False}, [WEATHER, TIME], "auto", False),
    ({"tool_choice": "none"}, [], "auto", True),
    ({"tool_choice": "required"}, [WEATHER, TIME], "required", True),
    ({"tool_choice": NAMED}, [TIME], "required", False),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
        [TIME],
        "auto",
        True,
    ),
]


@pytest.mark.parametrize(("change", "tools", "choice", "parallel"), CHOICES)
def test_tools_and_their_choice_reach_the_worker(
    client: httpx.Client,
    backend: ScriptedBackend,
    change: dict[str, Any],
    tools: list[dict[str, Any]],
    choice: str,
    parallel: bool,
) -> None:
    request = asked(client, backend, tools=[WEATHER, TIME], **change)
    assert list(request.tools) == tools
    assert (request.tool_choice, request.parallel_tool_calls) == (choice, parallel)


def test_names_are_those_that_clients_give(client: httpx.Client, backend: ScriptedBackend) -> None:
    tool = {"type": "function", "function": {"name": "files/read.text"}}
    assert list(asked(client, backend, tools=[tool]).tools) == [tool]
