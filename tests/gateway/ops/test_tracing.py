"""Spans, as a collector gets them."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.app import create_app
from gateway.ops.tracing import Tracing
from gateway.settings import GatewaySettings, StartError
from tests.gateway.asking import CHAT, HELLO, raising
from tests.serving import Script, ScriptedBackend, listening
from tests.waiting import wait_until
from worker.protocol import Accepted, ChatRequest, Event, Finished, TextDelta, Timings, Usage, WorkerFailed

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def timed(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5), TextDelta(0, "Hello"), Finished(0, "stop")]
    yield [Usage(5, 2, timings=Timings(queue=0.5, prefill=0.25, decode=0.125))]


@contextmanager
def traced(script: Script = timed) -> Iterator[tuple[httpx.Client, InMemorySpanExporter]]:
    exporter, settings = InMemorySpanExporter(), GatewaySettings()
    app = create_app(ScriptedBackend(script), settings, tracing=Tracing(SimpleSpanProcessor(exporter)))
    with listening(app, settings) as url, httpx.Client(base_url=url) as client:
        yield client, exporter


def spans(exporter: InMemorySpanExporter, number: int) -> Mapping[str, ReadableSpan]:
    wait_until(lambda: len(exporter.get_finished_spans()) >= number)
    found: Sequence[ReadableSpan] = exporter.get_finished_spans()
    assert len(found) == number
    return {span.name: span for span in found}


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_an_answers_phases_follow_each_other_below_the_clients_span() -> None:
    with traced() as (client, exporter):
        client.post(CHAT, json=HELLO, headers={"traceparent": PARENT})
        found = spans(exporter, 4)
    server = found["POST /chat/completions"]
    assert server.context is not None
    assert f"{server.context.trace_id:032x}" in PARENT
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" in PARENT
    assert server.attributes is not None
    assert server.attributes["gen_ai.request.model"] == "test-model"
    assert server.attributes["gen_ai.usage.output_tokens"] == 2
    queue, prefill, decode = phases = [found[name] for name in ("queue", "prefill", "decode")]
    assert all(span.parent == server.context for span in phases)
    assert [seconds(span) for span in phases] == pytest.approx([0.5, 0.25, 0.125])
    assert (queue.end_time, prefill.end_time) == (prefill.start_time, decode.start_time)


def test_without_a_parent_a_trace_begins_here_and_a_broken_one_does_no_harm() -> None:
    with traced() as (client, exporter):
        for headers in ({}, {"traceparent": "00-x"}, {"traceparent": "\xff" * 100}):
            raw: Any = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            assert client.get("/v1/models", headers=raw).is_success
        wait_until(lambda: len(exporter.get_finished_spans()) == 3)
        assert all(span.parent is None for span in exporter.get_finished_spans())


def test_an_answer_that_fails_is_marked() -> None:
    with traced(raising(WorkerFailed("It broke."), after=1)) as (client, exporter):
        client.post(CHAT, json={**HELLO, "stream": True})
        (span,) = spans(exporter, 1).values()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "worker_failed"
    assert not span.status.is_ok


def test_what_is_missing_for_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without_sdk(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("gateway.ops.tracing"):
            raise ModuleNotFoundError("", name="opentelemetry.sdk")
        return found(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_sdk)
    with pytest.raises(StartError, match=r"llama-gateway\[tracing\]"):
        create_app(ScriptedBackend(), GatewaySettings(tracing=True))
