"""From what a model writes to events: its thinking, its answer, its calls."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted, Content, Part, Thought
from worker.chat.formats.reader import FormatReader
from worker.chat.formats.record import Format
from worker.chat.logprobs import ContentLogprobs
from worker.chat.options import ToolUse
from worker.protocol import Event, FinishReason, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta


class AnswerReader:
    """Turns the text of choice `index` into events, as it comes."""

    def __init__(self, index: int, form: Format, use: ToolUse | None, prompt: str = "") -> None:
        """`prompt` may have opened the thinking."""
        self._index = index
        tools = None if use is None else {tool.name: tool.parameters for tool in use.tools}
        self._reader = FormatReader(form, tools, form.opened_by(prompt))
        self._required = use is not None and use.required
        self._parallel = use is None or use.parallel
        self._logprobs = ContentLogprobs()
        self._num_chars = 0
        self._content_end = 0
        self._num_calls = 0
        self._call_is_cut = False
        self.thought = ""
        self.done = False  # whether the rest of what the model would write is not wanted

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """What the text says; once `done`, nothing."""
        self._num_chars += len(text)
        self._logprobs.add(logprobs)
        return list(self._events(self._reader.feed(text)))

    def finish(self, reason: FinishReason) -> tuple[list[Event], FinishReason]:
        """The last events, and why the answer ends: `tool_calls` only if no call was cut off."""
        events = list(self._events(self._reader.finish()))
        if self._required:  # only the beginning of a call can be left: its grammar allows nothing else
            events = [event for event in events if not isinstance(event, TextDelta)]
        elif self._content_end == self._num_chars and (rest := self._logprobs.take_rest()):
            events.append(TextDelta(self._index, "", rest))
        called = self._num_calls > 0 and not self._call_is_cut
        return events, "tool_calls" if called and (self.done or reason == "stop") else reason

    def _events(self, parts: Sequence[Part]) -> Iterator[Event]:
        for part in parts:
            if self.done:
                return
            match part:
                case Thought():
                    self.thought += part.text
                    yield ReasoningDelta(self._index, part.text)
                case Content():
                    yield self._content(part.text, part.start)
                case CallStarted():
                    call_id = f"call_{secrets.token_hex(12)}"
                    yield ToolCallDelta(self._index, self._num_calls, id=call_id, name=part.name)
                    self._num_calls += 1
                case CallArguments():
                    yield ToolCallDelta(self._index, self._num_calls - 1, part.text)
                case CallEnded():
                    self._call_is_cut = not part.complete
                    self.done = not self._parallel

    def _content(self, text: str, start: int) -> TextDelta:
        self._content_end = start + len(text)
        return TextDelta(self._index, text, self._logprobs.take(start, self._content_end))
