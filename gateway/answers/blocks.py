"""An answer of one choice as blocks in the order in which it was written: thinking, text, calls of tools."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.answers.encoder import Encoder
from gateway.answers.whole import WholeAnswer
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
class Block:
    """Number `index` of an answer's blocks. A call has an id and a name, and `text` is its arguments."""

    kind: Literal["reasoning", "text", "call"]
    index: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class BlockEncoder(Encoder):
    """For APIs that tell of each block that it begins, grows and ends; one at a time is open.

    `reason` is why the answer ended, once it has; `stop` is the stop string that ended it, if one did.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.reason: FinishReason | None = None
        self.stop: str | None = None
        self.usage = Usage(0, 0)
        self._open = False

    def accepted(self, accepted: Accepted) -> bytes:
        """What is told once the worker has taken the request."""
        return b""

    @abstractmethod
    def begun(self, block: Block) -> bytes: ...

    @abstractmethod
    def grown(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> bytes: ...

    @abstractmethod
    def ended(self, block: Block) -> bytes: ...

    def read(self, answer: WholeAnswer) -> None:
        """Make the blocks of an answer that is not streamed."""
        self.events(answer.events)

    def events(self, events: Iterable[Event]) -> bytes:
        return b"".join([frame for event in events for frame in self._frames(event)])

    def heartbeat(self) -> bytes:
        return b": keep-alive\n\n"

    def is_cut(self, block: Block) -> bool:
        """Whether the answer ended before the block was complete."""
        if self.reason is None:  # another block follows
            return False
        return self.reason != "tool_calls" if block.kind == "call" else self.reason == "length"

    def _frames(self, event: Event) -> Iterator[bytes]:
        match event:
            case Accepted():
                yield self.accepted(event)
            case ReasoningDelta(text=text):
                yield from self._grow("reasoning", text)
            case TextDelta(text=text, logprobs=logprobs) if text or logprobs:
                yield from self._grow("text", text, logprobs)
            case ToolCallDelta(id=str(call_id), name=str(name)):
                yield from self._begin(Block("call", len(self.blocks), call_id, name))
                yield from self._grow("call", event.arguments)
            case ToolCallDelta():
                yield from self._grow("call", event.arguments)
            case Finished():
                self.reason, self.stop = event.reason, event.stop
                if not self.blocks:
                    yield from self._begin(Block("text", 0))
                yield from self._end()
            case Usage():
                self.usage = event

    def _grow(
        self,
        kind: Literal["reasoning", "text", "call"],
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> Iterator[bytes]:
        if not (self._open and self.blocks[-1].kind == kind):
            yield from self._begin(Block(kind, len(self.blocks)))
        block = self.blocks[-1]
        if text or logprobs:
            block.pieces.append(text)
            block.logprobs.extend(logprobs)
            yield self.grown(block, text, logprobs)

    def _begin(self, block: Block) -> Iterator[bytes]:
        yield from self._end()
        self.blocks.append(block)
        self._open = True
        yield self.begun(block)

    def _end(self) -> Iterator[bytes]:
        if self._open:
            self._open = False
            yield self.ended(self.blocks[-1])


def server_sent(name: str, data: bytes) -> bytes:
    """An event with a name, as these APIs send them."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
