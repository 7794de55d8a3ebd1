"""gpt-oss's answers: messages in channels. Analysis is thinking, commentary calls, final is the answer.

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>

The format is OpenAI's "harmony".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.json_text import json_arguments
from worker.chat.formats.parts import CallStarted, Content, Thought
from worker.chat.formats.record import Tools
from worker.chat.schema.enforceable import Schema, json_rule

_MESSAGE = "<|message|>"
_HEADS = ("<|channel|>", "<|start|>", "<|constrain|>", _MESSAGE, " to=", "to=")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_NEXT = ("<|start|>", "<|channel|>")  # ends that belong to the next message
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_FUNCTIONS = "functions."
_NOBODY = frozenset({"assistant", "user"})


@dataclass(frozen=True, slots=True)
class ChannelCall:
    """A call as the model is held to write it; it is read with the other messages."""

    begins: str = ""
    write: str = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"

    @property
    def markers(self) -> Sequence[str]:
        return (*_HEADS, *_ENDS)

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        yield from ()
        return False

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        head = constraints.written(self.write.replace("{name}", name))
        return [f"{rule}: {head} {rule}_arguments", f"{rule}_arguments: {json_rule(arguments)}"]


def read_channels(cursor: Cursor, tools: Tools) -> Reading[None]:
    """All messages. What is for a tool that is not on offer is left out, as is all markup."""
    while (yield from cursor.more()):
        place = cursor.place
        has_head = (yield from cursor.literal(*_HEADS)) is not None
        cursor.go(place)
        if not has_head:
            yield from _body(cursor, is_thought=False)
            continue
        head, end = yield from cursor.until(_MESSAGE)
        if end is None:
            return
        recipients = [name for name in _RECIPIENT.findall(head) if name not in _NOBODY]
        channels = _CHANNEL.findall(head)
        if not recipients:
            yield from _body(cursor, is_thought=channels[-1:] == ["analysis"])
        elif (name := recipients[-1].removeprefix(_FUNCTIONS)) in tools and (yield from cursor.more()):
            yield CallStarted(name)
            yield from json_arguments(cursor)
            yield from _end(cursor)
        else:
            yield from _end(cursor)


def _body(cursor: Cursor, *, is_thought: bool) -> Reading[None]:
    while (yield from cursor.more()):
        place, rest = cursor.place, cursor.rest
        ends = [at for end in _ENDS if (at := rest.find(end)) >= 0]
        length = min(ends) if ends else cursor.sure(*_ENDS)
        if text := cursor.take(length):
            yield Thought(text) if is_thought else Content(text, place)
            cursor.forget()
        if ends:
            yield from _end(cursor)
            return
        if not length:
            yield None


def _end(cursor: Cursor) -> Reading[None]:
    """Behind the message, before the next one."""
    _, end = yield from cursor.until(*_ENDS)
    if end in _NEXT:
        cursor.go(cursor.place - len(end))
