"""What an answer's life asks of an API: every byte of it, whole or streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from gateway.answers.whole import WholeAnswer
from gateway.errors import APIError
from worker.protocol import Event


class Encoder(ABC):
    """How an API writes its answer to one request. Made for one answer; it never fails, and waits only in
    `finished`."""

    @abstractmethod
    def whole(self, answer: WholeAnswer) -> bytes:
        """The JSON body of an answer that is not streamed."""

    @abstractmethod
    def opening(self) -> bytes:
        """What a stream begins with, before there is any text."""

    @abstractmethod
    def events(self, events: Iterable[Event]) -> bytes:
        """What a stream says of a batch: one write for all of it, empty where there is nothing to say."""

    @abstractmethod
    def error(self, error: APIError) -> bytes:
        """The last that is written where an answer fails after its first byte."""

    @abstractmethod
    def end(self) -> bytes:
        """The last that is written where it does not."""

    async def finished(self) -> None:
        """What is done of a complete answer before its last bytes are sent."""
        return None

    @abstractmethod
    def heartbeat(self) -> bytes:
        """What keeps a silent stream open."""
