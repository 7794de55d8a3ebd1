"""Finds tool calls in what a model writes, whatever format it was trained on, while it writes.

Hermes, Qwen      <tool_call>{"name": …, "arguments": …}</tool_call>, several or a list in one
Qwen3-Coder       <tool_call><function=name><parameter=key>value</parameter></function></tool_call>
Llama 3.x         <|python_tag|>{"name": …, "parameters": …}; …, or the bare JSON
Mistral           [TOOL_CALLS][{"name": …, "arguments": …}, …], or [TOOL_CALLS]name[ARGS]{…}
anything else     a JSON object or list at the very beginning, in a code fence or not
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from worker.chat.tools.call_reader import CallReader

OPENERS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>", "<function=")
_CLOSERS = ("</tool_call>", "</function>", "<|eom_id|>", "```")
_BETWEEN = " \t\r\n,;[]"
_SKIPPED = re.compile(r"(?:[\s,;\]]|\[(?=[^T]))*")  # a "[" may begin "[TOOL_CALLS]"
_FENCE = re.compile(r"```(?:json|tool_call|tool_code)?\s*(?=[\[{])")
_FENCE_BEGUN = re.compile(r"`{1,3}\Z|```(?:[a-z_]{0,9}|json\s*|tool_call\s*|tool_code\s*)\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NAMED_CALL = re.compile(r"([A-Za-z0-9_.-]+)(?:\[CALL_ID\][A-Za-z0-9]+)?(?:\[ARGS\])?\s*(?={)")
_NAMED_CALL_BEGUN = re.compile(r"[A-Za-z0-9_.-]+(?:\[[A-Z_]*\]?[A-Za-z0-9]*)*\s*\Z")
_FUNCTION = re.compile(r"<function=([^>]*)>\s*(?=\S)")
_PARAMETER = re.compile(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no call; `start` is its place in all text that was fed."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model began to call tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments' JSON text of the call that started last."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """Nothing more comes of the call that started last; `complete` unless the text ended in its arguments."""

    complete: bool = True


Part = Content | CallStarted | CallArguments | CallEnded


class _State(Enum):
    START = 0  # nothing but white space so far: bare JSON may still be a call
    TEXT = 1
    SECTION = 2  # behind an opener, between calls
    OBJECT = 3  # in a JSON call
    ARGUMENTS = 4  # in the JSON arguments of a call whose name stood before them
    XML = 5


class ToolCallParser:
    """Feed it text, and it gives back content and calls. What turns out not to be a call is content.

    `tools` are the tools that may be called, by name: their parameters' schemas, or None.
    """

    def __init__(self, tools: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._tools = tools
        self._state = _State.START
        self._num_fed = 0  # characters; the buffer holds the last of them
        self._buffer = ""  # not yet looked at
        self._raw = ""  # of the section, while it might still be content
        self._reader = CallReader(strict=True)
        self._name = ""
        self._sent = 0  # characters of the arguments handed out
        self._bare = True
        self._in_call = False
        self.num_calls = 0

    def feed(self, text: str) -> list[Part]:
        self._num_fed += len(text)
        self._buffer += text
        return list(self._run())

    def finish(self) -> list[Part]:
        """What was held back, when nothing more will come."""
        parts = list(self._run(final=True))
        if self._in_call:
            parts.append(CallEnded(_has_whole_arguments(self._reader)))
        elif (rest := self._raw + self._buffer) and (not self.num_calls or rest.strip(_BETWEEN)):
            parts.append(Content(rest, self._num_fed - len(rest)))
        self._raw = self._buffer = ""
        return parts

    def _run(self, final: bool = False) -> Iterator[Part]:
        steps = {
            _State.START: self._start,
            _State.TEXT: self._text,
            _State.SECTION: self._section,
            _State.OBJECT: self._object,
            _State.ARGUMENTS: self._arguments,
            _State.XML: self._xml,
        }
        before = None
        while self._buffer and before != (self._state, len(self._buffer)):
            before = (self._state, len(self._buffer))
            yield from steps[self._state](final)

    def _start(self, final: bool) -> Iterator[Part]:
        stripped = self._buffer.lstrip()
        if not stripped or (not final and (_begins_opener(stripped) or _FENCE_BEGUN.fullmatch(stripped))):
            return
        fence = _FENCE.match(stripped)
        behind = stripped[fence.end() :] if fence else stripped
        if behind[0] in "{[" and not behind.startswith(OPENERS):
            self._open(len(self._buffer) - len(behind), bare=True)
        else:
            self._state = _State.TEXT
        yield from ()

    def _text(self, final: bool) -> Iterator[Part]:
        found = min((at for at in map(self._buffer.find, OPENERS) if at >= 0), default=-1)
        safe = found if found >= 0 else len(self._buffer) - (0 if final else _held(self._buffer))
        text = self._buffer[:safe]
        if found >= 0 or not final:
            text = text.rstrip()  # white space before a call is not content
        if self.num_calls and not text.strip():
            self._buffer = self._buffer[len(text) :]
        else:
            yield from self._content(text)
        if found >= 0:
            opener = next(opener for opener in OPENERS if self._buffer.lstrip().startswith(opener))
            at = len(self._buffer) - len(self._buffer.lstrip())
            self._open(at + (0 if opener == "<function=" else len(opener)), bare=False)

    def _content(self, text: str) -> Iterator[Part]:
        start = self._num_fed - len(self._buffer)
        self._buffer = self._buffer[len(text) :]
        if text:
            yield Content(text, start)

    def _open(self, end: int, *, bare: bool) -> None:
        self._raw, self._buffer = self._buffer[:end], self._buffer[end:]
        self._state, self._bare = _State.SECTION, bare

    def _section(self, final: bool) -> Iterator[Part]:
        if skipped := _SKIPPED.match(self._buffer):
            self._skip(skipped.end())
        buffer = self._buffer
        for closer in _CLOSERS:
            if buffer.startswith(closer):
                yield from self._close_section(len(closer))
                return
        if not buffer or (not final and any(marker.startswith(buffer) for marker in (*_CLOSERS, *OPENERS))):
            return
        if buffer[0] == "{":
            self._reader, self._sent = CallReader(strict=self._bare), 0
            self._state = _State.OBJECT
        elif buffer.startswith("<function="):
            if function := _FUNCTION.match(buffer):
                yield from self._named(function[1].strip(), function.end(), xml=buffer[function.end()] != "{")
            elif final:
                yield from self._not_a_call()
        elif not self._bare and (named := _NAMED_CALL.match(buffer)):
            yield from self._named(named[1], named.end(), xml=False)
        elif self._bare or final or not _NAMED_CALL_BEGUN.fullmatch(buffer):
            opener = next((opener for opener in OPENERS if buffer.startswith(opener)), None)
            if opener and not self._bare:
                self._skip(len(opener))
            else:
                yield from self._not_a_call()

    def _close_section(self, length: int) -> Iterator[Part]:
        self._skip(length)
        if self.num_calls:
            self._raw = ""
            self._state = _State.TEXT
            return iter(())
        return self._not_a_call()

    def _skip(self, length: int) -> None:
        self._raw, self._buffer = self._raw + self._buffer[:length], self._buffer[length:]

    def _named(self, name: str, end: int, *, xml: bool) -> Iterator[Part]:
        """A call whose name stands before its arguments."""
        if name not in self._tools:
            yield from self._not_a_call()
            return
        self._skip(end)
        self._name = name
        self._reader, self._sent = CallReader(strict=False), 0
        for char in '{"arguments":':
            self._reader.feed(char)
        self._state = _State.XML if xml else _State.ARGUMENTS
        if not xml:
            yield self._started(name)

    def _object(self, final: bool) -> Iterator[Part]:
        reader = self._reader
        for at, char in enumerate(self._buffer):
            reader.feed(char)
            if reader.failed or (reader.name is not None and reader.name not in self._tools):
                if self._in_call:
                    yield from self._end_call(at)
                else:
                    yield from self._not_a_call()
                return
            if reader.done:
                yield from self._object_done(at + 1)
                return
        self._skip(len(self._buffer))
        yield from self._grown()

    def _grown(self) -> Iterator[Part]:
        reader = self._reader
        if reader.name is not None and reader.has_arguments:
            if not self._in_call:
                yield self._started(reader.name)
            if len(reader.arguments) > self._sent:
                yield CallArguments(reader.arguments[self._sent :])
                self._sent = len(reader.arguments)

    def _object_done(self, end: int) -> Iterator[Part]:
        reader = self._reader
        if reader.name is None or (self._bare and not reader.has_arguments):
            yield from self._not_a_call()
            return
        if not reader.has_arguments:
            reader.arguments, reader.has_arguments = "{}", True
        yield from self._grown()
        yield from self._end_call(end)

    def _arguments(self, final: bool) -> Iterator[Part]:
        for at, char in enumerate(self._buffer):
            self._reader.feed(char)
            if self._reader.failed or _has_whole_arguments(self._reader):
                self._reader.name = self._name
                yield from self._grown()
                yield from self._end_call(at + 1)
                return
        self._buffer = ""
        self._reader.name = self._name
        yield from self._grown()

    def _xml(self, final: bool) -> Iterator[Part]:
        end = self._buffer.find("</function>")
        if end < 0:
            return
        schema = self._tools[self._name] or {}
        arguments = {
            key: _typed(value, schema.get("properties", {}).get(key, {}))
            for key, value in _PARAMETER.findall(self._buffer[:end])
        }
        yield self._started(self._name)
        yield CallArguments(json.dumps(arguments, ensure_ascii=False))
        yield from self._end_call(end + len("</function>"))

    def _started(self, name: str) -> CallStarted:
        self.num_calls += 1
        self._in_call = True
        self._raw = ""
        return CallStarted(name)

    def _end_call(self, end: int) -> Iterator[Part]:
        self._buffer = self._buffer[end:]
        self._raw = ""
        self._in_call = False
        self._state = _State.SECTION
        yield CallEnded()

    def _not_a_call(self) -> Iterator[Part]:
        """What looked like a call is content after all, and so is bare JSON from here on."""
        text, self._raw = self._raw, ""
        self._buffer = text + self._buffer
        length = len(text) or 1
        self._state = _State.TEXT
        return self._content(self._buffer[:length])


def _begins_opener(text: str) -> bool:
    return any(opener.startswith(text) and opener != text for opener in OPENERS)


def _held(text: str) -> int:
    """How much at the end of `text` may be the beginning of an opener, or white space before one."""
    longest = max(map(len, OPENERS)) - 1
    return next((n for n in range(min(longest, len(text)), 0, -1) if _begins_opener(text[-n:])), 0)


def _has_whole_arguments(reader: CallReader) -> bool:
    """Whether the arguments have been closed, though the object around them may not be."""
    return reader.has_arguments and reader.depth == 1


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """An XML parameter's text as the JSON value that its schema asks for."""
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
