"""One line a request, which nothing that a client wrote can break or fake."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import orjson
import structlog
from starlette.types import Scope

from gateway.ops.log_stream import LogStream
from gateway.record import RequestRecord, caller_name

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; seen by the log only
QUIET_ROUTES = {"/health", "/ready", "/metrics"}  # asked every few seconds

log = structlog.get_logger("gateway")


def escape_values(logger: object, name: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """No value has characters that end a line or move a terminal's cursor."""
    return {key: one_line(value) if isinstance(value, str) else value for key, value in event.items()}


def one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
    escape_values,
]


def configure_logging(level: str, as_json: bool, target: TextIO | None = None) -> LogStream:
    """One line an event on stderr, for people or for machines, of this package and of all libraries."""
    stream = LogStream(target or sys.stderr)
    logging.basicConfig(level=logging.WARNING, handlers=[line_handler(stream, as_json)])
    logging.getLogger("worker").setLevel(level.upper())
    structlog.configure(
        processors=[*_SHARED, *_renderers(as_json)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream)),
    )
    return stream


def line_handler(stream: TextIO | LogStream, as_json: bool) -> logging.Handler:
    """Writes what libraries log as our own lines are written."""
    handler = logging.StreamHandler(stream)
    chain = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(as_json)]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=chain))
    return handler


def _renderers(as_json: bool) -> list[structlog.typing.Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=indented_traceback)]


def log_request(record: RequestRecord, scope: Scope) -> None:
    """All that an operator asks for later; no text of prompts or answers, unless LOG_PROMPTS is set."""
    quiet = record.route in QUIET_ROUTES and record.status < 400
    fields: dict[str, Any] = {
        "method": record.method,
        "route": record.route,
        "status": CLIENT_CLOSED_REQUEST if record.client_left else record.status,
        "key": caller_name(scope),
        "ms": _milliseconds(record.seconds),
        "error": record.error,
        "trace_id": record.trace_id,
    }
    if record.model is not None:
        fields |= _completion(record)
    told = {name: value for name, value in fields.items() if value is not None}
    (log.debug if quiet else log.info)("request", **told)


def _completion(record: RequestRecord) -> dict[str, Any]:
    fields = {
        "model": record.model,
        "finish_reason": ",".join(record.finish_reasons) or None,
        "first_token_ms": _milliseconds(record.first_token_seconds),
        "prompt": None if record.prompt is None else _json(record.prompt),
    }
    if (usage := record.usage) is None:
        return fields
    fields |= {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
    if (timings := usage.timings) is not None:
        fields |= {
            "queue_ms": _milliseconds(timings.queue),
            "prefill_ms": _milliseconds(timings.prefill),
            "decode_ms": _milliseconds(timings.decode),
        }
    return fields


def indented_traceback(target: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Over several lines, none of which looks like a log line: messages may quote what a client wrote."""
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    for line in plain.getvalue().split("\n"):
        if line:
            target.write(f"\n    {one_line(line)}")


def _json(value: object, **options: Any) -> str:
    return orjson.dumps(value, default=str).decode()


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
