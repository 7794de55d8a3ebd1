"""Whether a template shows everything that a conversation consists of, found out with marks in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from worker.chat.forms import Form
from worker.chat.messages import Message


class Probe:
    """A form with a mark for each text, name and value in it. What `misses` finds absent was left out.

    Marks are short and lower-case, so that no trimming or wrapping, and no capitals, hide them. Numbers are
    marks too; null, true and false are left as they are, and so is white space that stands alone.
    """

    def __init__(self, form: Form) -> None:
        self._numbers = count(1001)
        self.marks: list[str] = []
        self._arguments: list[Any] = []
        messages = [self._message(message) for message in form.messages]
        tools = None if form.tools is None else [self._tool(tool) for tool in form.tools]
        self.form = Form(messages, tools)

    def misses(self, rendered: str) -> int:
        """How many marks are not in what was rendered; objects written as only Python would count as one."""
        lower = rendered.lower()
        foreign = any(repr(arguments) in rendered for arguments in self._arguments)
        return sum(mark not in lower for mark in self.marks) + foreign

    def _message(self, message: Message) -> Message:
        marked = message | {"content": self._text(message["content"])}
        if "tool_calls" in message:
            marked["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
        return marked

    def _call(self, call: Message) -> Message:
        arguments = call["function"]["arguments"]
        if isinstance(arguments, str):
            marked: Any = self._json(arguments)
        else:
            marked = self._value(arguments)
            if _holds_text(marked):
                self._arguments.append(marked)
        function = call["function"] | {"name": self._mark(), "arguments": marked}
        return call | {"function": function}

    def _tool(self, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**tool, "function": {**tool["function"], "name": self._mark()}}

    def _json(self, text: str) -> str:
        try:
            return json.dumps(self._value(json.loads(text)))
        except (ValueError, RecursionError):
            return self._text(text)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {key: self._value(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._value(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool):
            number = 7_310_000 + next(self._numbers)
            self.marks.append(str(number))
            return number
        return value

    def _text(self, text: str) -> str:
        return self._mark() if text.strip() else text

    def _mark(self) -> str:
        mark = f"qx{next(self._numbers)}z"
        self.marks.append(mark)
        return mark


def _holds_text(value: Any) -> bool:
    """Whether Python and JSON would write it differently."""
    if isinstance(value, Mapping):
        return len(value) > 0
    return isinstance(value, str) or (isinstance(value, list) and any(map(_holds_text, value)))
