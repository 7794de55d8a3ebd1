"""Text that is still being written, for readers that are generators and wait for more of it.

A reader says `yield from` to what may have to wait, and gets text or a match. Each character is looked at a
bounded number of times, however the text is cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

from worker.chat.formats.parts import Part

T = TypeVar("T")
Reading = Generator[Part | None, None, T]  # gives parts as they are known, None to wait for more text

MAX_HEAD = (
    512  # characters of what has to match as a whole: a call's or a parameter's name and what is around it
)


class Cursor:
    """A place in the text. `final` once nothing more will come."""

    def __init__(self) -> None:
        self.final = False
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters before `_text`

    def feed(self, text: str) -> None:
        self._text += text

    @property
    def place(self) -> int:
        """Of the next character in all text that was fed."""
        return self._dropped + self._at

    @property
    def rest(self) -> str:
        """What is there of the text from here."""
        return self._text[self._at :]

    def go(self, place: int) -> None:
        self._at = place - self._dropped

    def since(self, place: int) -> str:
        return self._text[place - self._dropped : self._at]

    def forget(self) -> None:
        """What is behind will not be asked for again."""
        self._dropped += self._at
        self._text, self._at = self._text[self._at :], 0

    def take(self, length: int) -> str:
        start, self._at = self._at, self._at + length
        return self._text[start : self._at]

    def more(self) -> Reading[bool]:
        """Whether there is a next character."""
        while self._at == len(self._text):
            if self.final:
                return False
            yield None
        return True

    def skip(self, chars: str) -> Reading[None]:
        while (yield from self.more()) and self._text[self._at] in chars:
            self._at += 1

    def literal(self, *texts: str) -> Reading[str | None]:
        """The longest of the texts that is next, which is then behind; None if it is none of them."""
        longest = max(map(len, texts), default=0)
        while True:
            rest = self._text[self._at : self._at + longest]
            if self.final or not any(text.startswith(rest) and text != rest for text in texts):
                break
            yield None
        found = max((text for text in texts if rest.startswith(text)), key=len, default=None)
        self._at += len(found or "")
        return found

    def match(self, begin: str, pattern: re.Pattern[str]) -> Reading[re.Match[str] | None]:
        """What matches here, MAX_HEAD characters at most, and is then behind. It begins with `begin`."""
        place = self.place
        if begin and (yield from self.literal(begin)) is None:
            return None
        self.go(place)
        while True:
            if found := pattern.match(self._text, self._at):
                self._at = found.end()
                return found
            if self.final or len(self._text) - self._at > MAX_HEAD:
                return None
            yield None

    def until(self, *ends: str) -> Reading[tuple[str, str | None]]:
        """The text before the first of `ends`, and which it was; None if the text is over before that."""
        pattern = re.compile("|".join(map(re.escape, sorted(ends, key=len, reverse=True))))
        longest = max(map(len, ends))
        searched = self._at
        while True:
            if found := pattern.search(self._text, searched):
                text = self._text[self._at : found.start()]
                self._at = found.end()
                return text, found.group()
            if self.final:
                return self.take(len(self._text) - self._at), None
            searched = max(self._at, len(self._text) - longest + 1)
            yield None

    def sure(self, *ends: str) -> int:
        """How many of the characters from here on cannot belong to one of `ends`, which is not there yet."""
        rest = self._text[self._at :]
        return len(rest) - (0 if self.final else held(rest, ends))


def held(text: str, markers: tuple[str, ...]) -> int:
    """How much at the end of `text` may be the beginning of a marker."""
    longest = max(map(len, markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(marker.startswith(end) for marker in markers):
            return length
    return 0
