"""Reads what a model writes by its family's record, while it writes: thinking, content, calls."""

from __future__ import annotations

from collections.abc import Iterator

from worker.chat.formats.channels import read_channels
from worker.chat.formats.cursor import Cursor, Reading
from worker.chat.formats.parts import CallStarted, Content, Part, Thought
from worker.chat.formats.record import Format, Syntax, Tags, Tools

_SPACE = " \t\r\n"
_SEPARATORS = " \t\r\n,;"
_FENCES = ("```json", "```tool_call", "```tool_code", "```")


class FormatReader:
    """Feed it text, and it gives back the parts. What turns out not to be a call is content.

    `tools` may be called; None, if calls are not looked for. `opened` are the tags whose first one the prompt
    has written already.
    """

    def __init__(self, form: Format, tools: Tools | None, opened: Tags | None = None) -> None:
        self._form = form
        self._tools = tools
        self._cursor = Cursor()
        self._num_calls = 0
        openers = form.calls.all_openers if tools is not None else ()
        dropped = (*form.unsaid, form.answer.begin, form.answer.end)
        self._openers = openers
        self._dropped = tuple(filter(None, (text.strip() for text in dropped)))
        self._thinks = {tags.begin: tags for tags in form.thinking} if form.thinks_again else {}
        self._markers = (*openers, *self._dropped, *self._thinks)
        self._reading = self._all(opened)
        self._over = False

    def feed(self, text: str) -> list[Part]:
        self._cursor.feed(text)
        return list(self._read())

    def finish(self) -> list[Part]:
        """What was held back, when nothing more will come."""
        self._cursor.final = True
        return list(self._read())

    def _read(self) -> Iterator[Part]:
        """Until it waits."""
        while not self._over:
            try:
                part = next(self._reading)
            except StopIteration:
                self._over = True
                return
            if part is None:
                return
            yield part

    def _all(self, opened: Tags | None) -> Reading[None]:
        if self._form.channels:
            yield from read_channels(self._cursor, self._tools or {})
            return
        if self._form.lead:
            yield from self._cursor.literal(self._form.lead)
        tags = opened or (yield from self._tags())
        if tags is not None:
            yield from self._thinking(tags)
            yield from self._cursor.skip("\n")
        if self._tools is not None:
            yield from self._bare_calls(self._tools)
        while (yield from self._cursor.more()):
            yield from self._content()

    def _tags(self) -> Reading[Tags | None]:
        """The tags whose first one is next, white space before it or not; it is then behind."""
        cursor, place, tags = self._cursor, self._cursor.place, self._form.thinking
        yield from cursor.skip(_SPACE)
        begin = yield from cursor.literal(*(tag.begin for tag in tags))
        if begin is None:
            begin = yield from self._closed_at_once(tags)
            if begin is None:
                cursor.go(place)
            return None
        return next(tag for tag in tags if tag.begin == begin)

    def _closed_at_once(self, tags: tuple[Tags, ...]) -> Reading[str | None]:
        """Some models close a thinking that they have not begun, to say that there is none."""
        end = yield from self._cursor.literal(*(tag.end for tag in tags))
        if end is not None:
            yield from self._cursor.skip("\n")
        return end

    def _thinking(self, tags: Tags) -> Reading[None]:
        """Up to its end. Line breaks around it belong to neither side."""
        cursor, form = self._cursor, self._form
        yield from cursor.skip("\n")
        calls = self._openers if form.calls_end_thinking else ()
        ends = (tags.end, *filter(None, (form.answer.begin,) if form.calls_end_thinking else ()))
        while (yield from cursor.more()):
            found = _first(cursor.rest, (*ends, *calls))
            if found is not None:
                at, end = found
                text = cursor.rest[:at].rstrip("\n" if end in ends else _SPACE)
                if text:
                    yield Thought(text)
                if end in calls:
                    cursor.take(len(text))
                    yield from self._call_in_thinking(tags)
                else:
                    cursor.take(at + (len(end) if end == tags.end else 0))
                return
            text = cursor.rest[: cursor.sure(*ends, *calls)]
            if not cursor.final:
                text = text.rstrip(_SPACE if calls else "\n")
            if text:
                cursor.take(len(text))
                yield Thought(text)
            else:
                yield None

    def _call_in_thinking(self, tags: Tags) -> Reading[None]:
        """A thought about calls, if the thinking is closed after all; otherwise the model calls."""
        cursor, place = self._cursor, self._cursor.place
        text, end = yield from cursor.until(tags.end)
        if end is None:
            cursor.go(place)
            yield from cursor.skip(_SPACE)
            if self._tools is not None and (yield from self._calls(self._tools)):
                return
            cursor.go(place)
            text = cursor.take(len(cursor.rest))
        yield Thought(text.rstrip("\n"))

    def _bare_calls(self, tools: Tools) -> Reading[None]:
        """Calls with nothing before them, as the very beginning of the answer."""
        bare = self._form.calls.bare
        cursor, place = self._cursor, self._cursor.place
        yield from cursor.skip(_SPACE)
        if not bare or not (yield from cursor.more()):
            cursor.go(place)
            return
        fence = yield from cursor.literal(*_FENCES)
        if fence is not None:
            yield from cursor.skip(_SPACE)
            if not cursor.rest.startswith(("{", "[")):
                cursor.go(place)
                return
        yield from self._section(tools, bare, place, ("```",) if fence else ())

    def _content(self) -> Reading[None]:
        """Some of the answer, or what stands in it that is not content."""
        cursor = self._cursor
        found = _first(cursor.rest, self._markers)
        if found is not None and self._may_grow(found[0]):
            yield None
            return
        if found is None:
            length = cursor.sure(*self._markers)
            text = cursor.rest[:length]
            if self._openers and not cursor.final:
                text = text.rstrip()  # white space before a call is not content
            if not text or (self._num_calls and not text.strip() and not cursor.final):
                if cursor.final:
                    yield from self._said(len(cursor.rest))
                else:
                    yield None
                return
            yield from self._said(len(text))
            return
        at, marker = found
        if marker in self._dropped:
            yield from self._said(at)
            cursor.take(len(marker))
            return
        if marker in self._thinks:
            yield from self._said(len(cursor.rest[:at].rstrip()))
            yield from cursor.skip(_SPACE)
            cursor.take(len(marker))
            yield from self._thinking(self._thinks[marker])
            yield from cursor.skip("\n")
            return
        assert self._tools is not None
        before = cursor.rest[:at]
        yield from self._said(len(before.rstrip()))
        cursor.take(len(before) - len(before.rstrip()))
        place = cursor.place
        if not (yield from self._calls(self._tools)):
            cursor.go(place - (len(before) - len(before.rstrip())))
            yield from self._said(place - cursor.place + len(marker))

    def _may_grow(self, at: int) -> bool:
        """Whether the marker there may become a longer one."""
        rest = self._cursor.rest[at:]
        return not self._cursor.final and any(
            marker.startswith(rest) and marker != rest for marker in self._markers
        )

    def _said(self, length: int) -> Reading[None]:
        """Content, unless it is the white space between calls and the end."""
        start = self._cursor.place
        text = self._cursor.take(length)
        self._cursor.forget()
        if text and (text.strip() or not self._num_calls):
            yield Content(text, start)

    def _calls(self, tools: Tools) -> Reading[bool]:
        """All calls from the opener at the cursor on; False, if there is none."""
        calls, cursor = self._form.calls, self._cursor
        place = cursor.place
        sections = tuple(filter(None, (calls.begin.strip(), *calls.openers)))
        if sections:
            yield from cursor.literal(*sections)
        return (yield from self._section(tools, calls.syntaxes, place, ()))

    def _section(
        self, tools: Tools, syntaxes: tuple[Syntax, ...], place: int, more_closers: tuple[str, ...]
    ) -> Reading[bool]:
        """Calls and what separates them; what is no call stays where it is, as content."""
        calls, cursor = self._form.calls, self._cursor
        closers = tuple(filter(None, (calls.end.strip(), *calls.closers, *more_closers)))
        sections = tuple(filter(None, (calls.begin.strip(), *calls.openers)))
        any_call = False
        while True:
            yield from self._separators((*sections, *closers, *(syntax.begins for syntax in syntaxes)))
            if closers and (yield from cursor.literal(*closers)) is not None:
                if any_call:
                    return True
                break
            if any_call and sections and (yield from cursor.literal(*sections)) is not None:
                continue
            if not (yield from self._one_of(syntaxes, tools)):
                if any_call:
                    return True
                break
            any_call = True
            cursor.forget()
        cursor.go(place)
        return False

    def _separators(self, markers: tuple[str, ...]) -> Reading[None]:
        """White space, commas, the brackets of lists; but one may begin a marker, as `[TOOL_CALLS]`."""
        cursor = self._cursor
        markers = tuple(marker for marker in markers if marker[:1] in ("[", "]"))
        while True:
            yield from cursor.skip(_SEPARATORS)
            if not (yield from cursor.more()) or cursor.rest[0] not in "[]":
                return
            place = cursor.place
            is_marker = (yield from cursor.literal(*markers)) is not None
            cursor.go(place)
            if is_marker:
                return
            cursor.take(1)

    def _one_of(self, syntaxes: tuple[Syntax, ...], tools: Tools) -> Reading[bool]:
        cursor = self._cursor
        place = cursor.place
        for syntax in syntaxes:
            reading = syntax.read(cursor, tools)
            while True:
                try:
                    part = next(reading)
                except StopIteration as stop:
                    is_call = bool(stop.value)
                    break
                if isinstance(part, CallStarted):
                    self._num_calls += 1
                yield part
            if is_call:
                return True
            cursor.go(place)
        return False


def _first(text: str, markers: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the first of the markers is, and which: the longest where several begin there."""
    places = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if not places:
        return None
    at, _, marker = min(places)
    return at, marker
