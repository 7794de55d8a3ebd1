"""Loading a model as the settings ask for, and what is told where that cannot be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.worker.llama.tiny_models import write_tiny_model
from worker.engine.sequence import Sequence
from worker.llama.cpu_variants import finds_gpu
from worker.models.default import default_model
from worker.models.files import ModelFileError
from worker.protocol import ChatRequest, CompletionRequest, Event, Request, SamplingParams, Usage
from worker.service import Worker, load_llama, notices
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


ROLES = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def tiny_settings(folder: Path, template: str | None, **settings: Any) -> WorkerSettings:
    path = write_tiny_model("llama", folder, template=template)
    return WorkerSettings(model_path=path, mem_mb=512, llm_slots=1, **settings)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (ROLES, None),
        (ROLES + "{% for m in messages %}{% set x = '{}' | from_json %}{% endfor %}", None),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "marks roles by plain text"),
        (None, "brings no chat template"),
    ],
)
def test_a_load_tells_what_a_template_cannot_do(
    template: str | None, told: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warnings = warnings_of(tiny_settings(tmp_path, template), caplog)
    assert [told in warning for warning in warnings] == [True] if told else warnings == []


def test_a_template_that_is_none_stops_the_start_unless_another_is_given(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"^The chat template in .* is not a Jinja template: line 1: .* CHAT"
    ):
        load_llama(tiny_settings(tmp_path, "{% for %}"))
    given = tmp_path / "given.jinja"
    given.write_text(ROLES)
    load_llama(tiny_settings(tmp_path, "{% for %}", chat_template=given)).close()
    given.write_text("{% for %}")
    with pytest.raises(
        ModelFileError, match=r"^CHAT_TEMPLATE=.*/given\.jinja is not a Jinja template: line 1: "
    ):
        load_llama(tiny_settings(tmp_path, ROLES, chat_template=given))


@pytest.mark.parametrize(("name", "why"), [("missing.jinja", "No such file"), (".", "Is a directory")])
def test_a_template_that_cannot_be_read_is_told_with_what_sets_it(
    name: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=f"^CHAT_TEMPLATE=.* cannot be read: {why}"):
        load_llama(tiny_settings(tmp_path, ROLES, chat_template=tmp_path / name))


def test_what_nobody_asked_for_is_not_told() -> None:
    """The default context is only an upper bound, and so is the default number of slots."""
    llama: Any = SimpleNamespace(num_slots=3, context_length=2048, metadata={}, chat_handler=None)
    assert list(notices(WorkerSettings(), llama, on_gpu=False)) == []


def test_a_worker_says_why_it_would_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path, None, llm_max_waiting=0, llm_prefix_cache=False)
    worker = Worker(load_llama(settings), settings)

    def reasons() -> list[str]:
        return list(asyncio.run(worker.not_ready()))

    try:
        assert reasons() == []
        stats = worker._llama.stats()
        for wrong, told in [
            ({"seconds_in_turn": 100.0}, "has been in one step for 100 seconds"),
            ({"num_running": 1}, "The queue is full"),
        ]:
            shown = replace(stats, **wrong)  # type: ignore[arg-type]
            monkeypatch.setattr(worker._llama, "stats", lambda shown=shown: shown)
            (reason,) = reasons()
            assert told in reason
    finally:
        monkeypatch.undo()
        worker.close()
    assert reasons() == ["The engine has stopped."]


def test_the_engine_shares_its_slots_between_the_clients_that_requests_name(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, ROLES)
    worker = Worker(load_llama(settings), settings)
    asked: list[Request] = [
        ChatRequest(
            "1", "tiny", [{"role": "user", "content": "Hi"}], SamplingParams(max_tokens=1), client="ada"
        ),
        CompletionRequest("2", "tiny", ("Hi",), SamplingParams(max_tokens=1), client="bob"),
    ]
    served: list[str] = []
    submit = worker._llama.engine.submit

    def noted(sequence: Sequence) -> None:
        served.append(sequence.client)
        submit(sequence)

    worker._llama.engine.submit = noted  # type: ignore[method-assign]
    try:
        for request in asked:
            asyncio.run(_all_of(worker, request))
    finally:
        worker.close()
    assert served == ["ada", "bob"]


def test_what_one_client_asked_is_not_told_to_another(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, ROLES)
    worker = Worker(load_llama(settings), settings)

    def num_cached(client: str) -> int:
        sampling = SamplingParams(max_tokens=1)
        request = CompletionRequest("1", "tiny", ("tell nobody " * 20,), sampling, client=client)
        (usage,) = asyncio.run(_all_of(worker, request))[-1]
        assert isinstance(usage, Usage)
        return usage.cached_tokens

    try:
        assert num_cached("ada") == 0
        assert num_cached("ada") > 0
        assert num_cached("bob") == 0
    finally:
        worker.close()


async def _all_of(worker: Worker, request: Request) -> list[list[Event]]:
    return [batch async for batch in worker.chat(request)]
