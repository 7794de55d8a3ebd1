"""What crosses the seam."""

from __future__ import annotations

from worker.protocol import ContextLengthExceeded, Overloaded, WorkerError, WorkerFailed


def test_worker_errors_survive_pickling() -> None:
    import pickle

    failures: list[WorkerError] = [
        ContextLengthExceeded(512, 600, "messages"),
        ContextLengthExceeded(512, 600, at_least=True).of("messages"),
        ContextLengthExceeded(512, 600, "messages", True).beside_tools(100),
        Overloaded("full", 2),
        WorkerFailed("dead"),
    ]
    for failure in failures:
        copy = pickle.loads(pickle.dumps(failure))
        assert (type(copy), str(copy), copy.__dict__) == (type(failure), str(failure), failure.__dict__)
