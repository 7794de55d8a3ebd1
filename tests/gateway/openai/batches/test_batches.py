"""Files and batches, as OpenAI's own SDK drives them, over the scripted backend."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from gateway.app import create_app
from gateway.caller import Caller
from gateway.openai.batches.batch import new_batch
from gateway.openai.batches.local import FreeSlots
from gateway.openai.batches.run import BatchRun
from gateway.openai.file_store import FileStore, write_json
from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, say_hello, serving
from tests.worker.engine.fake_runner import make_engine
from worker.protocol import Event, WorkerFailed, WorkerStats

CHATS: Any = "/v1/chat/completions"


def line(custom_id: str, url: str = CHATS, method: str = "POST", **body: Any) -> str:
    asked = {"model": "test-model", "messages": [{"role": "user", "content": custom_id}], **body}
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": asked})


@pytest.fixture
def sdk(url: str, backend: ScriptedBackend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="one", max_retries=0) as client:
        yield client


def upload(sdk: openai.OpenAI, *lines: str) -> str:
    return sdk.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch").id


def ended(sdk: openai.OpenAI, batch_id: str) -> Any:
    deadline = time.monotonic() + 20
    while (batch := sdk.batches.retrieve(batch_id)).status not in (
        "completed",
        "failed",
        "cancelled",
        "expired",
    ):
        assert time.monotonic() < deadline, batch
    return batch


def start(sdk: openai.OpenAI, *lines: str, endpoint: Any = CHATS) -> Any:
    return sdk.batches.create(
        input_file_id=upload(sdk, *lines), endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


def rows(sdk: openai.OpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    return [json.loads(text) for text in sdk.files.content(file_id).text.splitlines()]


def test_each_request_is_answered_as_it_would_be_alone(sdk: openai.OpenAI) -> None:
    batch = start(
        sdk, line("first"), line("second", model="none"), line("third", temperature=9), line("fourth")
    )
    assert (batch.status, batch.metadata) == ("validating", {"a": "b"})
    batch = ended(sdk, batch.id)
    assert (batch.status, batch.request_counts.total) == ("completed", 4)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    answers = {row["custom_id"]: row["response"] for row in rows(sdk, batch.output_file_id)}
    assert set(answers) == {"first", "fourth"}
    assert answers["first"]["status_code"] == 200
    assert answers["first"]["request_id"]
    assert answers["first"]["body"]["choices"][0]["message"]["content"] == "Hello"
    failures = {row["custom_id"]: row["response"] for row in rows(sdk, batch.error_file_id)}
    assert failures["second"]["status_code"] == 404
    assert failures["third"]["body"]["error"]["param"] == "temperature"
    assert sdk.batches.list().data[0].id == batch.id


def test_what_is_wrong_with_the_file_fails_it_with_the_lines(sdk: openai.OpenAI) -> None:
    faulty = [
        line("a"), line("a"), line("b", url="/v1/completions"), line("c", method="GET"),
        line("d", stream=True), "{", "[]", '{"method": "POST"}', "",
    ]  # fmt: skip
    batch = ended(sdk, start(sdk, *faulty).id)
    assert batch.status == "failed"
    assert [(each.line, each.code) for each in batch.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_endpoint"),
        (4, "invalid_method"),
        (5, "unsupported_parameter"),
        (6, "invalid_json_line"),
        (7, "invalid_json_line"),
        (8, "missing_required_parameter"),
    ]
    assert ended(sdk, start(sdk, "").id).errors.data[0].code == "empty_file"


def test_what_is_not_supported_is_refused_by_name(sdk: openai.OpenAI) -> None:
    file_id = upload(sdk, line("a"))
    with pytest.raises(openai.BadRequestError, match="'purpose' is not supported"):
        sdk.files.create(file=("x", b"x"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        sdk.batches.create(input_file_id=file_id, endpoint=CHATS, completion_window="1h")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        sdk.batches.create(input_file_id=file_id, endpoint="/v1/moderations", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="'output_expires_after' is not supported"):
        sdk.batches.create(
            input_file_id=file_id,
            endpoint=CHATS,
            completion_window="24h",
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        sdk.files.create(
            file=("x", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 1}
        )


def test_files_are_their_keys_own(sdk: openai.OpenAI) -> None:
    file_id = upload(sdk, line("a"))
    batch = ended(sdk, start(sdk, line("a")).id)
    assert sdk.files.retrieve(file_id).filename == "in.jsonl"
    assert file_id in [each.id for each in sdk.files.list(purpose="batch")]
    other = sdk.with_options(api_key="another")
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []
    of_files: list[Any] = [other.files.retrieve, other.files.content, other.files.delete]
    of_batches: list[Any] = [other.batches.retrieve, other.batches.cancel]
    for ask, id in [*((ask, file_id) for ask in of_files), *((ask, batch.id) for ask in of_batches)]:
        with pytest.raises(openai.NotFoundError):
            ask(id)
    with pytest.raises(openai.BadRequestError, match="No such File"):
        other.batches.create(input_file_id=file_id, endpoint=CHATS, completion_window="24h")
    assert sdk.files.delete(file_id).deleted
    for lost in (file_id, "file-" + "0" * 24, "../../etc"):
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(lost)


def test_a_cancelled_batch_ends_with_what_it_has(sdk: openai.OpenAI, backend: ScriptedBackend) -> None:
    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        if request.messages[-1]["content"] == "stuck":
            await asyncio.Event().wait()
        async for events in say_hello(backend, request):
            yield events

    backend.script = script
    batch = start(sdk, line("quick"), line("stuck"))
    deadline = time.monotonic() + 20
    while len(backend.requests) < 2:
        assert time.monotonic() < deadline
    assert sdk.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(sdk, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    assert [row["custom_id"] for row in rows(sdk, batch.output_file_id)] == ["quick"]
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        sdk.batches.cancel(batch.id)


def test_a_server_that_ends_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    """Answers that were written stay, a half-written line is cut off, what ran is asked again."""
    settings = GatewaySettings(files_dir=tmp_path)
    asked: list[str] = []
    hold = True

    async def script(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        asked.append(request.messages[-1]["content"])
        if hold and len(asked) > 5:
            await asyncio.Event().wait()
        async for events in say_hello(backend, request):
            yield events

    names = [f"request-{i}" for i in range(12)]
    stopping = asyncio.Event()
    with (
        serving(ScriptedBackend(script), settings, stopping) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="one") as sdk,
    ):
        batch = start(sdk, *map(line, names))
        deadline = time.monotonic() + 20
        while len(asked) < 6:
            assert time.monotonic() < deadline
    [journal] = tmp_path.glob("*/batches/*.output")
    assert journal.read_text().count("\n") == 5
    with journal.open("a") as file:
        file.write('{"id": "torn')
    hold = False
    with (
        serving(ScriptedBackend(script), settings) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="one") as sdk,
    ):
        batch = ended(sdk, batch.id)
        assert batch.request_counts.completed == 12
        assert sorted(row["custom_id"] for row in rows(sdk, batch.output_file_id)) == sorted(names)
    assert len(asked) == 13, "only the one that was under way is asked twice"


async def never() -> None:
    await asyncio.Event().wait()


async def nothing() -> None: ...


class Unbounded:
    async def free(self, num_running: int) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, max_bytes=1 << 20, seconds=1000, clock=lambda: 5000.0)


def kept_batch(store: FileStore, *lines: str, created: float = 5000.0) -> str:
    source = store.upload()
    source.write_text("\n".join(lines))
    batch = new_batch(CHATS, store.add("me", source, "in.jsonl", "batch")["id"], None, created)
    write_json(store.batches("me") / f"{batch['id']}.json", batch)
    return batch["id"]


def run(store: FileStore, batch_id: str, post: Any) -> dict[str, Any]:
    run = BatchRun(store, "me", batch_id, post=post, places=Unbounded(), cancelled=never, saved=nothing)
    run.SECONDS_BETWEEN_ATTEMPTS = 0.0
    asyncio.run(run.run())
    batch: dict[str, Any] = json.loads((store.batches("me") / f"{batch_id}.json").read_text())
    return batch


def test_what_is_late_is_told_as_expired(store: FileStore) -> None:
    async def post(path: str, body: bytes, caller: Caller) -> tuple[int, str, bytes]:
        await never()
        raise AssertionError

    batch = run(store, kept_batch(store, line("a"), line("b"), created=5000.0 - 24 * 3600), post)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("expired", 2)
    errors = store.content("me", batch["error_file_id"]).read_text().splitlines()
    assert {json.loads(text)["error"]["code"] for text in errors} == {"batch_expired"}


def test_overload_is_waited_out_and_a_failing_worker_is_asked_three_times(store: FileStore) -> None:
    statuses = iter([429, 429, 429, 503, 503, 200, 503, 503, 503])

    async def post(path: str, body: bytes, caller: Caller) -> tuple[int, str, bytes]:
        return next(statuses), "id", b"{}"

    class One:
        """One request at a time, so that the statuses come in order."""

        async def free(self, num_running: int) -> bool:
            return num_running == 0

    batch_id = kept_batch(store, line("a"), line("b"))
    one = BatchRun(store, "me", batch_id, post=post, places=One(), cancelled=never, saved=nothing)
    one.SECONDS_BETWEEN_ATTEMPTS = 0.0
    asyncio.run(one.run())
    batch = json.loads((store.batches("me") / f"{batch_id}.json").read_text())
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


def test_a_file_that_is_gone_fails_its_batch(store: FileStore) -> None:
    batch_id = kept_batch(store, line("a"))
    for file in list(store.of("me")):
        store.delete("me", file["id"])
    assert run(store, batch_id, None)["errors"]["data"][0]["code"] == "file_not_found"


def test_files_expire_and_have_bounds(tmp_path: Path) -> None:
    now = 0.0
    store = FileStore(tmp_path, max_bytes=10, seconds=1000, clock=lambda: now)
    source = store.upload()
    source.write_text("12345678")
    file = store.add("me", source, "a", "batch", seconds=50)
    store.room("me", 2)
    store.room("other", 10)
    with pytest.raises(Exception, match="FILES_MB"):
        store.room("me", 3)
    now = 51.0
    with pytest.raises(Exception, match="No such File"):
        store.find("me", file["id"])
    assert list(store.of("me")) == []
    assert not store.content("me", file["id"]).exists()


def test_one_slot_is_left_for_whoever_comes() -> None:
    async def free(running: int, waiting: int, slots: int, mine: int) -> bool:
        engine = dataclasses.replace(
            make_engine().stats(), num_slots=slots, num_running=running, num_waiting=waiting
        )

        async def stats() -> Sequence[WorkerStats]:
            return [WorkerStats("id", "model", engine)]

        return await FreeSlots(stats).free(mine)

    assert asyncio.run(free(0, 0, 4, 0))
    assert asyncio.run(free(2, 0, 4, 2))
    assert not asyncio.run(free(3, 0, 4, 3)), "the last slot stays free"
    assert not asyncio.run(free(4, 5, 4, 0)), "people wait"
    assert asyncio.run(free(0, 0, 1, 0)), "where there is one slot, and nobody else"
    assert not asyncio.run(free(1, 0, 1, 0))


def test_a_failing_worker_is_an_entry_among_the_errors(sdk: openai.OpenAI, backend: ScriptedBackend) -> None:
    async def fail(backend: ScriptedBackend, request: Any) -> AsyncGenerator[list[Event]]:
        raise WorkerFailed("broken")
        yield []

    backend.script = fail
    BatchRun.SECONDS_BETWEEN_ATTEMPTS = 0.0
    batch = ended(sdk, start(sdk, line("a")).id)
    assert rows(sdk, batch.error_file_id)[0]["response"]["status_code"] == 503
    assert batch.output_file_id is None


def test_the_app_starts_nothing_before_it_serves(tmp_path: Path) -> None:
    create_app(ScriptedBackend(), GatewaySettings(files_dir=tmp_path / "files"))
    assert not (tmp_path / "files").exists()


def test_its_requests_are_its_keys(backend: ScriptedBackend) -> None:
    with (
        serving(backend, GatewaySettings(api_keys=SecretStr("alice:one"))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="one", max_retries=0) as sdk,
    ):
        ended(sdk, start(sdk, line("a"), line("b")).id)
    assert [request.client for request in backend.requests] == ["alice", "alice"]
