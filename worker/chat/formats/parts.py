"""What a reader finds in a model's text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer; `start` is its place in all text that was fed."""

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


Part = Thought | Content | CallStarted | CallArguments | CallEnded
