"""What is known of one model family's way to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.chat.constraint import Constraints
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.schema.enforceable import Schema

Tools = Mapping[str, Mapping[str, Any] | None]  # what may be called: each tool's parameters, a JSON Schema


class Syntax(Protocol):
    """How one call is written."""

    @property
    def begins(self) -> str:
        """The text that each call begins with; "" where that is not fixed."""
        ...

    @property
    def markers(self) -> Sequence[str]:
        """All fixed text in a call, in which a model's control tokens may be."""
        ...

    def read(self, cursor: Cursor, tools: Tools) -> Reading[bool]:
        """Gives the call at the cursor; False, and no part, if there is none of one of the tools."""
        ...

    def rules(self, rule: str, name: str, arguments: Schema, constraints: Constraints) -> list[str]:
        """In Lark: `rule`, a call of tool `name` with enforceable `arguments`, and what it needs."""
        ...


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands around a part of the text."""

    begin: str
    end: str


THINK = Tags("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Calls:
    """Where calls stand, and how they are written.

    All of them are between `begin` and `end`, with `between` from one to the next; of the `syntaxes` the
    first is what the model is held to, all are read. `closers` may stand behind a call beside `end`, and
    `openers` before one beside `begin`. `bare` calls may also be the very beginning of an answer, with
    nothing before.
    """

    syntaxes: tuple[Syntax, ...]
    begin: str = ""
    end: str = ""
    between: str = ""
    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    bare: tuple[Syntax, ...] = ()
    several: bool = True  # in one answer

    @property
    def all_openers(self) -> tuple[str, ...]:
        """Where a call may begin in the midst of text."""
        begins = [syntax.begins for syntax in self.syntaxes]
        return tuple(dict.fromkeys(filter(None, (self.begin.strip(), *self.openers, *begins))))

    @property
    def trigger(self) -> str:
        """The first of `begin`, which no text has but a call."""
        openers = [opener for opener in self.openers if self.begin.startswith(opener)]
        return max(openers, key=len, default=self.begin.strip())

    @property
    def markers(self) -> Iterator[str]:
        yield from (self.begin, self.end, self.between, *self.openers, *self.closers)
        for syntax in (*self.syntaxes, *self.bare):
            yield from syntax.markers


@dataclass(frozen=True, slots=True)
class Format:
    """One model family.

    It is known by a template that has all of the `words`. `thinking` are the tags that it may think between,
    `answer` those that it puts around what it says; `unsaid` is other markup that belongs to nobody. A model
    whose calls end its thinking (`calls_end_thinking`) writes them before it has closed the tag.
    `after_thinking` is what stands between the thinking and the rest; otherwise line breaks may.
    """

    name: str
    words: tuple[str, ...]
    calls: Calls
    thinking: tuple[Tags, ...] = (THINK,)
    answer: Tags = field(default_factory=lambda: Tags("", ""))
    unsaid: tuple[str, ...] = ()
    calls_end_thinking: bool = False
    channels: bool = False  # the answer is a sequence of messages, each with its channel (channels.py)
    thinks_again: bool = False  # in the midst of the answer too
    after_thinking: str = ""
    template_thinks: bool = False  # whether the template speaks of the first tags
    lead: str = ""  # at the very beginning, belongs to nobody

    @property
    def thinks_with(self) -> Tags | None:
        """What an answer that is held to a grammar may think between, before it."""
        return self.thinking[0] if self.thinking and self.template_thinks else None

    @property
    def markers(self) -> frozenset[str]:
        """All fixed text of the format. The control tokens in it have to be read as text."""
        tags = [text for tag in (*self.thinking, self.answer) for text in (tag.begin, tag.end)]
        return frozenset(filter(None, (*tags, *self.unsaid, *self.calls.markers)))

    def without_thinking(self, text: str) -> tuple[str, str]:
        """An earlier answer's thinking and the rest, for clients that send back all of it as content."""
        for tags in self.thinking:
            head, closed, tail = text.partition(tags.end)
            if closed and head.lstrip().startswith(tags.begin):
                return head.lstrip().removeprefix(tags.begin).strip("\n"), tail.lstrip("\n")
        return "", text

    def opened_by(self, prompt: str) -> Tags | None:
        """The tags of the thinking, if the prompt ends with opened ones: the model begins by thinking."""
        stripped = prompt.rstrip()
        return next((tags for tags in self.thinking if stripped.endswith(tags.begin.rstrip())), None)
