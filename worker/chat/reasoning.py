"""Tells what a model thinks from what it answers."""

from __future__ import annotations

from dataclasses import dataclass

_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the thinking."""

    text: str


def opened_tag(prompt: str) -> str | None:
    """The closing tag, if the prompt ends with an opened one: the model then begins by thinking."""
    stripped = prompt.rstrip()
    return next((end for begin, end in _TAGS if stripped.endswith(begin)), None)


def without_reasoning(text: str) -> tuple[str, str]:
    """An earlier answer's reasoning and the rest, for clients that send back all of it as content."""
    for begin, end in _TAGS:
        head, closed, tail = text.partition(end)
        if closed and head.lstrip().startswith(begin):
            return head.lstrip().removeprefix(begin).strip("\n"), tail.lstrip("\n")
    return "", text


class ReasoningParser:
    """Feed it text, and it gives back reasoning and content, without the tags between them."""

    def __init__(self, closing_tag: str | None = None) -> None:
        """`closing_tag` if the prompt has opened the reasoning already."""
        self._end = closing_tag
        self._deciding = closing_tag is None  # nothing but white space so far: a tag may still come
        self._buffer = ""
        self._trim = closing_tag is not None  # line breaks around the tags belong to neither side

    def feed(self, text: str) -> list[Reasoning | str]:
        self._buffer += text
        return self._parts(final=False)

    def finish(self) -> list[Reasoning | str]:
        return self._parts(final=True)

    @property
    def thinking(self) -> bool:
        return self._end is not None

    def _parts(self, final: bool) -> list[Reasoning | str]:
        parts: list[Reasoning | str] = []
        if self._deciding and not self._decide(final):
            return parts
        if self._end is not None:
            thought = self._thought(final)
            if thought:
                parts.append(Reasoning(thought))
        if self._end is None:
            if self._trim:
                self._buffer = self._buffer.lstrip("\n")
            if self._buffer:
                parts.append(self._buffer)
                self._buffer, self._trim = "", False
        return parts

    def _decide(self, final: bool) -> bool:
        """Whether it is known by now if the answer begins with a tag."""
        stripped = self._buffer.lstrip()
        for begin, end in _TAGS:
            if stripped.startswith(begin):
                self._buffer, self._end, self._trim = stripped[len(begin) :], end, True
                break
        else:
            if not final and any(begin.startswith(stripped) for begin, _ in _TAGS):
                return False
        self._deciding = False
        return True

    def _thought(self, final: bool) -> str:
        """The thinking that is sure by now; moves on to the answer once the closing tag is there."""
        assert self._end is not None
        if self._trim:
            self._buffer = self._buffer.lstrip("\n")
        thought, closed, rest = self._buffer.partition(self._end)
        if closed:
            self._buffer, self._end, self._trim = rest, None, True
            return thought.rstrip("\n")
        held = 0 if final else _held(thought, self._end)
        thought = self._buffer[: len(self._buffer) - held]
        if not final:
            thought = thought.rstrip("\n")
        self._buffer = self._buffer[len(thought) :]
        if thought:
            self._trim = False
        return thought


def _held(text: str, tag: str) -> int:
    """How much at the end of `text` may be the beginning of `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0)
