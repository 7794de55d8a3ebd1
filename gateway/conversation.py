"""A conversation in the chat template's own form, which every API's messages become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

Message = dict[str, Any]


def said(role: Literal["system", "user", "assistant"], text: str, name: str | None = None) -> Message:
    return {"role": role, "content": text, **({"name": name} if name else {})}


def answered(
    text: str, *, reasoning: str = "", calls: Sequence[Message] = (), name: str | None = None
) -> Message:
    """What the assistant said, what it thought before, and the tools it called."""
    message = said("assistant", text, name)
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = list(calls)
    return message


def call(call_id: str, name: str, arguments: str | dict[str, Any]) -> Message:
    """`arguments` as JSON text, or as the object that it says."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def result(call_id: str | None, text: str, name: str | None = None) -> Message:
    """What the call of that id gave."""
    return {"role": "tool", "content": text, **({"name": name} if name else {}), "tool_call_id": call_id}
