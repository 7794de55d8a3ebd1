"""Spans of each request, for OpenTelemetry. Imported only where TRACING is set; needs the extra `tracing`.

They are made when a request has ended, from its record. What happened at the worker came back over the seam
with the answer's usage, so that a worker needs neither the SDK nor a way to the collector.
"""

from __future__ import annotations

import time

from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from gateway.record import RequestRecord, caller_name

NANOSECONDS = 1_000_000_000


class Tracing:
    """Hands spans to `processor`. The SDK reads the service's name and the sampler from OTEL_… variables."""

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource({SERVICE_NAME: "llama-gateway"}).merge(OTELResourceDetector().detect())
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("gateway")
        self._propagator = TraceContextTextMapPropagator()

    def observe(self, record: RequestRecord, scope: Scope) -> None:
        """A server span, below the client's own where it sent a `traceparent`, and the phases in it."""
        ended = time.time_ns()
        started = ended - round(record.seconds * NANOSECONDS)
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            self._propagator.extract(dict(Headers(scope=scope))),
            SpanKind.SERVER,
            start_time=started,
        )
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        if span.is_recording():
            _describe(span, record, scope)
            self._add_phases(span, record, started)
        span.end(ended)

    def _add_phases(self, parent: Span, record: RequestRecord, started: int) -> None:
        """Counted back from when the usage came: the clocks of two machines need not agree."""
        if record.usage is None or record.usage.timings is None:
            return
        timings = record.usage.timings
        end = started + round((record.usage_seconds or 0.0) * NANOSECONDS)
        phases = (("decode", timings.decode), ("prefill", timings.prefill), ("queue", timings.queue))
        for name, seconds in phases:
            begin = end - round(seconds * NANOSECONDS)
            span = self._tracer.start_span(name, set_span_in_context(parent), start_time=begin)
            span.end(end)
            end = begin


def _describe(span: Span, record: RequestRecord, scope: Scope) -> None:
    span.set_attribute("http.request.method", record.method)
    span.set_attribute("http.route", record.route)
    span.set_attribute("http.response.status_code", 499 if record.client_left else record.status)
    span.set_attribute("http.request.header.x-request-id", [record.id])
    span.set_attribute("enduser.id", caller_name(scope))
    if record.model is not None:
        span.set_attribute("gen_ai.request.model", record.model)
        span.set_attribute("gen_ai.response.finish_reasons", record.finish_reasons)
    if record.usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", record.usage.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", record.usage.completion_tokens)
    if record.error is not None or record.status >= 500:
        span.set_attribute("error.type", record.error or str(record.status))
        span.set_status(Status(StatusCode.ERROR))


def tracing_to_collector() -> Tracing:
    """To the collector of OTEL_EXPORTER_OTLP_ENDPOINT, by HTTP, from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return Tracing(BatchSpanProcessor(OTLPSpanExporter()))
