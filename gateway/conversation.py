"""A conversation in the chat template's own form, which every API's messages become."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Literal

from gateway.errors import invalid, missing

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


class OpenCalls:
    """The calls of a conversation so far, and those among them that wait for a result."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._waiting: set[str] = set()

    def made(self, call_id: str) -> None:
        self._known.add(call_id)
        self._waiting.add(call_id)

    def answered(self, call_id: str | None, param: str) -> str:
        """The call that a result is of, which may be left out where one alone waits for it.

        Raises a 400 that names `param` where that is not clear, or for the result of no call.
        """
        if call_id is None:
            call_id = only_waiting(self._waiting, param)
        if call_id not in self._known:
            raise invalid(
                f"There is a result for the call '{call_id}', which nothing before it makes.", param
            )
        self._waiting.discard(call_id)
        return call_id


def only_waiting(call_ids: Collection[str], param: str) -> str:
    """The id that a result may leave out, because one call alone waits for it."""
    if len(call_ids) != 1:
        raise missing(param)
    (call_id,) = call_ids
    return call_id
