"""The worker's events added up to one answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.protocol import (
    Accepted,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)


@dataclass(slots=True)
class Call:
    """A tool call; the pieces of `arguments` join to JSON."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """One of the answer's choices, in pieces."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason = "stop"


class WholeAnswer:
    """All of an answer, once every event has been added. `ignored`: parameters that had no effect.

    `events` has what came in its order, for APIs that keep it.
    """

    def __init__(self, num_choices: int) -> None:
        self.choices = [Choice() for _ in range(num_choices)]
        self.usage = Usage(0, 0)
        self.ignored: tuple[str, ...] = ()
        self.events: list[Event] = []

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            match event:
                case TextDelta():
                    self.choices[event.index].text.append(event.text)
                    self.choices[event.index].logprobs.extend(event.logprobs)
                case ReasoningDelta():
                    self.choices[event.index].reasoning.append(event.text)
                case ToolCallDelta():
                    self._add_call(event)
                case Finished():
                    self.choices[event.index].finish_reason = event.reason
                case Accepted():
                    self.ignored = event.ignored
                case Usage():
                    self.usage = event

    def _add_call(self, delta: ToolCallDelta) -> None:
        calls = self.choices[delta.index].calls
        if delta.id is not None and delta.name is not None:
            calls.append(Call(delta.id, delta.name))
        calls[delta.call].arguments.append(delta.arguments)
