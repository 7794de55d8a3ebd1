"""Figures for Prometheus.

Names are llama.cpp's (`llamacpp:…`) where the meaning is the same, those of OpenTelemetry's semantic
conventions for HTTP (`http_server_…`) and generative AI (`gen_ai_…`) otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client import generate_latest as as_text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import Scope

from gateway.deps import GatewayDep
from gateway.record import RequestRecord, caller_name
from worker.protocol import STEP_BUCKETS, WorkerStats

ROUTE, STATUS, KEY, MODEL = "http_route", "http_response_status_code", "api_key", "gen_ai_request_model"
# Seconds. The conventions' own, and more at the long end: answers on a CPU take minutes.
LONG = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
)
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
PER_TOKEN = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


class Metrics:
    """What the gateway sees of each request, counted once at its end. No label is a client's own text."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody looks at
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._active = Gauge("http_server_active_requests", "Requests under way", registry=self.registry)
        self._requests = Counter(
            "http_server_requests",
            "Requests, by the name of the key; 499 for clients that left",
            [ROUTE, STATUS, KEY],
            registry=self.registry,
        )
        self._http_seconds = self._histogram(
            "http_server_request_duration_seconds", "From the request's head to the answer's end", LONG, ROUTE
        )
        self._tokens = Counter(
            "gen_ai_usage_tokens",
            "Tokens of finished answers; cached ones are among the input's, reasoning among the output's",
            ["gen_ai_token_type", MODEL, KEY],
            registry=self.registry,
        )
        self._seconds = self._histogram(
            "gen_ai_server_request_duration_seconds", "The same, of answers by a model", LONG
        )
        self._first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Until the first text came from the worker",
            FIRST_TOKEN,
        )
        self._per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds", "Between tokens after the first", PER_TOKEN
        )
        self._queue = self._histogram(
            "gen_ai_server_queue_duration_seconds", "Waiting for a slot", FIRST_TOKEN
        )
        self._prefill = self._histogram(
            "gen_ai_server_prefill_duration_seconds", "From the slot to the first token", FIRST_TOKEN
        )
        self._left = Counter(
            "gen_ai_server_abandoned_requests",
            "Answers whose client left before the end",
            [MODEL],
            registry=self.registry,
        )

    def active(self) -> AbstractContextManager[None]:
        return self._active.track_inprogress()

    def observe(self, record: RequestRecord, scope: Scope) -> None:
        """Count a request that has ended."""
        key = caller_name(scope)
        self._requests.labels(record.route, 499 if record.client_left else record.status, key).inc()
        self._http_seconds.labels(record.route).observe(record.seconds)
        if record.model is not None:
            self._observe_answer(record, record.model, key)

    def _observe_answer(self, record: RequestRecord, model: str, key: str) -> None:
        self._seconds.labels(model).observe(record.seconds)
        if record.first_token_seconds is not None:
            self._first_token.labels(model).observe(record.first_token_seconds)
        if record.client_left:
            self._left.labels(model).inc()
        if (usage := record.usage) is None:
            return
        for kind, num_tokens in (
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
            ("cached", usage.cached_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            self._tokens.labels(kind, model, key).inc(num_tokens)
        if (timings := usage.timings) is not None:
            self._queue.labels(model).observe(timings.queue)
            self._prefill.labels(model).observe(timings.prefill)
            if usage.completion_tokens > 1:
                self._per_token.labels(model).observe(timings.decode / (usage.completion_tokens - 1))

    def _histogram(self, name: str, what: str, buckets: Sequence[float], label: str = MODEL) -> Histogram:
        return Histogram(name, what, [label], buckets=buckets, registry=self.registry)


# Metric, help and the field of EngineStats.
GAUGES = (
    ("llamacpp:requests_processing", "Sequences that have a slot", "num_running"),
    ("llamacpp:requests_deferred", "Sequences that wait for a slot", "num_waiting"),
    ("llamacpp:kv_cache_tokens", "Tokens of running sequences in the KV cache", "num_kv_tokens"),
    ("gen_ai_server_slots", "Sequences that can run at a time", "num_slots"),
    ("gen_ai_server_prefix_cache_bytes", "States of prefixes in memory", "num_cache_bytes"),
    (
        "gen_ai_server_engine_turn_seconds",
        "How long the step under way has taken; 0 without work",
        "seconds_in_turn",
    ),
)
COUNTERS = (
    ("llamacpp:prompt_tokens", "Prompt tokens computed", "num_prompt_tokens_total"),
    (
        "llamacpp:prompt_seconds",
        "Seconds from slot to first token, over all sequences",
        "prompt_seconds_total",
    ),
    ("llamacpp:tokens_predicted", "Tokens generated", "num_output_tokens_total"),
    (
        "llamacpp:tokens_predicted_seconds",
        "Seconds of generation, over all sequences",
        "predicted_seconds_total",
    ),
    ("llamacpp:n_decode", "Calls of llama_decode", "num_steps_total"),
    ("gen_ai_server_forced_tokens", "Output tokens that left no choice", "num_forced_tokens_total"),
    ("gen_ai_server_draft_tokens", "Tokens drafted from the text so far", "num_draft_tokens_total"),
    ("gen_ai_server_accepted_tokens", "Drafted tokens that were right", "num_accepted_tokens_total"),
    ("gen_ai_server_finished_sequences", "Sequences that finished", "num_finished_total"),
    (
        "gen_ai_server_aborted_sequences",
        "Sequences that were not wanted any more: the client left, or the answer was complete",
        "num_aborted_total",
    ),
    ("gen_ai_server_failed_sequences", "Sequences that ended with an error", "num_failed_total"),
    ("gen_ai_server_failed_decodes", "Calls of llama_decode that failed", "num_failed_decodes_total"),
)
TIERS = (
    ("slot", "num_slot_tokens_total"),
    ("memory", "num_memory_tokens_total"),
    ("file", "num_file_tokens_total"),
)


class Everything(Collector):
    """The gateway's figures, and the workers' as they said them last."""

    def __init__(self, metrics: Metrics, workers: Sequence[WorkerStats]) -> None:
        self._metrics, self._workers = metrics, workers

    def collect(self) -> Iterable[Metric]:
        yield from self._metrics.registry.collect()
        yield from worker_families(self._workers)


def worker_families(workers: Sequence[WorkerStats]) -> Iterable[Metric]:
    labels = [MODEL, "worker"]
    for name, what, figure in GAUGES:
        gauge = GaugeMetricFamily(name, what, labels=labels)
        for worker in workers:
            gauge.add_metric([worker.model, worker.id], getattr(worker.engine, figure))
        yield gauge
    for name, what, figure in COUNTERS:
        counter = CounterMetricFamily(name, what, labels=labels)
        for worker in workers:
            counter.add_metric([worker.model, worker.id], getattr(worker.engine, figure))
        yield counter
    use = GaugeMetricFamily(
        "llamacpp:kv_cache_usage_ratio", "Of the KV cache, by running sequences", labels=labels
    )
    busy = GaugeMetricFamily(
        "llamacpp:n_busy_slots_per_decode", "Sequences in a step, on average", labels=labels
    )
    reused = CounterMetricFamily(
        "gen_ai_server_prefix_tokens", "Prompt tokens that were not computed again", labels=[*labels, "tier"]
    )
    steps = HistogramMetricFamily("gen_ai_server_step_duration_seconds", "llama_decode", labels=labels)
    for worker in workers:
        names, engine = [worker.model, worker.id], worker.engine
        use.add_metric(names, engine.num_kv_tokens / (engine.num_slots * engine.context_length))
        busy.add_metric(names, engine.num_scheduled_total / max(1, engine.num_steps_total))
        for tier, figure in TIERS:
            reused.add_metric([*names, tier], getattr(engine, figure))
        bounds = [*map(str, STEP_BUCKETS), "+Inf"]
        counts = accumulate(engine.num_steps_by_seconds)
        steps.add_metric(names, list(zip(bounds, counts, strict=True)), engine.step_seconds_total)
    yield from (use, busy, reused, steps)


def metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def figures(gateway: GatewayDep) -> Response:
        """Figures in Prometheus' text format. Needs a key like any route, unless METRICS_PUBLIC is set."""
        everything = Everything(metrics, await gateway.backend.stats())
        return Response(as_text(everything), media_type=CONTENT_TYPE_LATEST)

    return router
