"""The completions behind one request, from the engine's outputs to the events of all choices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker.engine.sequence import Output
from worker.engine.stream import CompletionStream
from worker.protocol import Event, Finished, FinishReason, TextDelta, Timings, TokenLogprob, Usage


class Reader(Protocol):
    """Makes events of one choice's text. `done` once the rest is not wanted, `thought` is its reasoning."""

    @property
    def done(self) -> bool: ...

    @property
    def thought(self) -> str: ...

    def feed(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[Event]: ...

    def finish(self, reason: FinishReason) -> tuple[list[Event], FinishReason]: ...


@dataclass(slots=True)
class PlainReader:
    """Text as it comes, after `echo`."""

    index: int
    echo: str = ""
    done: bool = False
    thought: str = ""

    def feed(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[Event]:
        text, self.echo = self.echo + text, ""
        return [TextDelta(self.index, text, tuple(logprobs))]

    def finish(self, reason: FinishReason) -> tuple[list[Event], FinishReason]:
        return (self.feed("", ()) if self.echo else []), reason


Choice = tuple[CompletionStream, Reader]


@dataclass(slots=True)
class Answer:
    """The choices of one request, decoded side by side.

    `count` tells how many tokens a text has, `ignored` which options had no effect; `num_each` choices have
    one prompt.
    """

    count: Callable[[str], int]
    ignored: tuple[str, ...] = ()
    num_each: int = 1
    choices: list[Choice] = field(default_factory=list)

    def add(self, stream: CompletionStream, reader: Reader) -> None:
        self.choices.append((stream, reader))

    def abort(self) -> None:
        """Free every slot; never blocks, from any thread, any number of times."""
        for stream, _ in self.choices:
            stream.abort()

    @contextlib.contextmanager
    def aborted_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.abort()
            raise

    @property
    def prompt_tokens(self) -> int:
        """Each prompt is counted once, as OpenAI does, whatever the number of its choices."""
        return sum(stream.prompt_tokens for stream, _ in self.choices[:: self.num_each])

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(stream.completion_tokens for stream, _ in self.choices),
            cached_tokens=sum(stream.cached_tokens for stream, _ in self.choices[:: self.num_each]),
            reasoning_tokens=sum(self.count(reader.thought) for _, reader in self.choices if reader.thought),
            timings=longest([stream.timings for stream, _ in self.choices]),
        )

    async def events(self) -> AsyncGenerator[list[Event]]:
        """What the choices give, as it comes. Raises the error that ended one of them."""
        if len(self.choices) == 1:
            async for events in _read(0, *self.choices[0]):
                yield events
        else:
            async for events in self._merged():
                yield events

    async def _merged(self) -> AsyncGenerator[list[Event]]:
        queue: asyncio.Queue[list[Event] | Exception | None] = asyncio.Queue()

        async def pump(index: int) -> None:
            try:
                async for events in _read(index, *self.choices[index]):
                    queue.put_nowait(events)
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(pump(index)) for index in range(len(self.choices))]
        try:
            running = len(tasks)
            while running:
                match await queue.get():
                    case None:
                        running -= 1
                    case Exception() as error:  # at once: nobody wants the rest of the others
                        raise error
                    case events:
                        yield events
        finally:
            for task in tasks:
                task.cancel()


def longest(timings: Sequence[Timings]) -> Timings | None:
    """Of choices that run side by side: each phase as long as the slowest took for it."""
    if not timings:
        return None
    return Timings(
        max(t.queue for t in timings), max(t.prefill for t in timings), max(t.decode for t in timings)
    )


def blocking_events(choices: Sequence[Choice]) -> Iterator[list[Event]]:
    """What the choices give, one after the other, for a thread that may wait for them."""
    for index, (stream, reader) in enumerate(choices):
        for output in stream.outputs():
            events, ended = _read_output(index, output, reader)
            if ended:
                stream.abort()
            if events:
                yield events
            if ended:
                break


async def _read(index: int, stream: CompletionStream, reader: Reader) -> AsyncGenerator[list[Event]]:
    async for output in stream:
        events, ended = _read_output(index, output, reader)
        if ended:
            stream.abort()  # before a slow client has taken the last events
        if events:
            yield events
        if ended:
            return


def _read_output(index: int, output: Output, reader: Reader) -> tuple[list[Event], bool]:
    """The events of one output, and whether they are the choice's last."""
    if output.error is not None:
        raise output.error
    events = reader.feed(output.text, output.logprobs) if output.text or output.logprobs else []
    if output.finish_reason is None and not reader.done:
        return events, False
    last, reason = reader.finish(output.finish_reason or "stop")
    stop = output.stop if reason == "stop" else None
    return [*events, *last, Finished(index, reason, stop)], True
