"""Loading a model as the settings ask for, and what is told where that cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.llama.cpu_variants import finds_gpu
from worker.models.default import default_model
from worker.service import load_llama, notices
from worker.settings import WorkerSettings


def warnings_of(settings: WorkerSettings, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level("WARNING", "worker"):
        load_llama(settings).close()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.skipif(finds_gpu(), reason="this llama.cpp has a GPU")
def test_a_load_tells_each_setting_that_it_could_not_follow(caplog: pytest.LogCaptureFixture) -> None:
    settings = WorkerSettings(
        model_path=default_model(), mem_mb=880, llm_ctx=100000, llm_slots=2, n_gpu_layers=-1
    )
    memory, context, gpu = warnings_of(settings, caplog)
    assert memory.startswith("A memory of 880 MiB holds 1 sequences of 8192 tokens beside the model, not the")
    assert context.startswith("LLM_CTX=100000 is more than the model was trained for: a request has 8192 ")
    assert gpu.startswith("N_GPU_LAYERS=-1 has no effect: ")


def test_what_nobody_asked_for_is_not_told() -> None:
    """The default context is only an upper bound, and so is the default number of slots."""
    llama: Any = SimpleNamespace(num_slots=3, context_length=2048, metadata={}, chat_handler=None)
    assert list(notices(WorkerSettings(), llama, on_gpu=False)) == []
