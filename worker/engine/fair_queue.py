"""Who is next: the client with the fewest sequences running, of equals who was served longest ago."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from worker.engine.sequence import Sequence


class FairQueue:
    """First come, first served within a client; between clients, slots are shared (max-min fairness)."""

    def __init__(self) -> None:
        # In the order in which they were served: whoever is served goes to the end.
        self._waiting: dict[str, deque[Sequence]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for queue in self._waiting.values() for sequence in queue)

    def add(self, sequence: Sequence) -> None:
        self._waiting.setdefault(sequence.client, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Ahead of all others of its client: it was its turn already."""
        self._waiting.setdefault(sequence.client, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        queue = self._waiting[sequence.client]
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.client]

    def pop(self, running: Iterable[Sequence]) -> Sequence:
        """Take out who is next, given who runs; the caller knows that somebody waits."""
        client = self.next_client(running)
        queue = self._waiting.pop(client)
        sequence = queue.popleft()
        if queue:
            self._waiting[client] = queue
        return sequence

    def next_client(self, running: Iterable[Sequence]) -> str:
        num_running = Counter(sequence.client for sequence in running)
        return min(self._waiting, key=num_running.__getitem__)
