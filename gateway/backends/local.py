"""The worker in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from worker.embedding_service import EmbeddingWorker
from worker.llama.interrupts import ctrl_c_exits
from worker.service import Worker, load_worker
from worker.settings import WorkerSettings


@contextlib.contextmanager
def local_worker(settings: WorkerSettings) -> Iterator[Worker | EmbeddingWorker]:
    """A backend with its model loaded, which is freed on leaving. Raises ModelFileError.

    Ctrl-C while the model loads ends the process at once.
    """
    with ctrl_c_exits():
        worker = load_worker(settings)
    try:
        yield worker
    finally:
        worker.close()
