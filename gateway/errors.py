"""Every error in its API's envelope, whatever raised it, with a sentence that says what to do.

APIError                    raised by this package, with its status
worker.protocol.WorkerError what a worker answers, mapped in `from_worker`
framework errors            unknown routes, wrong methods, bodies that are not JSON or not valid
anything else               a 500 that says nothing of the inside
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import orjson
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from worker.protocol import InvalidRequest, Overloaded, WorkerError, WorkerFailed

log = structlog.get_logger("gateway")


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(TypedDict):
    """Every failure, whatever its status."""

    error: ErrorDetail


class APIError(Exception):
    """An error with its HTTP status; `body` is the envelope that OpenAI's clients parse."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type = status, message, type
        self.param, self.code, self.headers = param, code, dict(headers or {})

    @property
    def detail(self) -> ErrorDetail:
        """All four keys; the message ends with the request's id, as the log has it."""
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        message = f"{self.message} (request {request_id})" if request_id else self.message
        return {"message": message, "type": self.type, "param": self.param, "code": self.code}

    @property
    def body(self) -> bytes:
        envelope: ErrorResponse = {"error": self.detail}
        return orjson.dumps(envelope)

    def response(self) -> Response:
        return Response(self.body, self.status, self.headers, "application/json")


Envelope = Callable[[APIError], Response]  # how an API answers an error


class ServerBusy(APIError):
    """A 429 that no key of its own has caused: the worker's queue is full."""


class ClientLeft(Exception):
    """The client went away before it was answered; there is nobody to answer any more."""


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> APIError:
    return APIError(400, message, param=param, code=code)


def missing(param: str) -> APIError:
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unsupported(param: str, why: str) -> APIError:
    return invalid(f"'{param}' is not supported: {why}", param, "unsupported_parameter")


def model_not_found(name: str, served: list[str]) -> APIError:
    message = f"The model '{name}' does not exist here. Served: {', '.join(served)}."
    return APIError(404, message, param="model", code="model_not_found")


def from_worker(error: WorkerError) -> APIError:
    """The status that makes OpenAI's SDK raise the right class, and retry only what can succeed."""
    match error:
        case InvalidRequest():
            return invalid(error.message, error.param, error.code or "invalid_value")
        case Overloaded():
            headers = {
                "Retry-After": str(math.ceil(error.retry_after)),
                "retry-after-ms": str(round(error.retry_after * 1000)),
            }
            return ServerBusy(
                429, error.message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers
            )
        case WorkerFailed():
            return APIError(503, str(error), type="server_error", code="worker_failed")
        case _:
            return internal_error()


def internal_error() -> APIError:
    message = "The server failed on this request. Its log has the details under this response's x-request-id."
    return APIError(500, message, type="server_error", code="internal_error")


def from_exception(error: Exception) -> APIError:
    """What a client is told of any exception; unexpected ones are logged with their traceback."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, WorkerError):
        return from_worker(error)
    log.error("request_failed", exc_info=error)
    return internal_error()


def from_validation(errors: Sequence[Any], body: object) -> APIError:
    """The first of pydantic's errors, named as the client wrote the field: `messages[0].role`."""
    detail = errors[0]
    kind = detail["type"]
    if detail["loc"][0] == "query":
        param = str(detail["loc"][1])
        return invalid(f"Invalid value for '{param}': {_expectation(detail)}.", param)
    if not isinstance(body, dict):
        message = "The body must be a JSON object, sent with the header 'Content-Type: application/json'."
        return invalid(message, None, "invalid_json")
    param = _field_name(detail["loc"], body, missing=kind == "missing")
    if kind.startswith("union_tag"):
        param = f"{param}.{detail['ctx']['discriminator'].strip(chr(39))}"
    if kind in ("missing", "union_tag_not_found"):
        return missing(param)
    return invalid(f"Invalid value for '{param}': {_expectation(detail)}.", param)


def _expectation(detail: Mapping[str, Any]) -> str:
    """What the value should have been; in pydantic's words, where they tell it to somebody who sends JSON."""
    match detail["type"]:
        case "union_tag_invalid":
            return f"input should be one of {detail['ctx']['expected_tags']}"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "input should be a JSON object"
        case _:
            message: str = detail["msg"].removeprefix("Value error, ").replace(" after validation", "")
            return message[0].lower() + message[1:]


def _field_name(location: Sequence[str | int], body: object, *, missing: bool) -> str:
    """Follow pydantic's location through the body, leaving out the union branches it mentions."""
    name, value = "", body
    for part in location[1:]:
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            name, value = f"{name}[{part}]", value[part]
        elif isinstance(value, dict) and (part in value or (missing and part == location[-1])):
            name, value = f"{name}.{part}" if name else str(part), value.get(part)
    return name


class AnswerErrors:
    """Answers whatever is raised inside, where a request can still be answered.

    `envelopes` are those of the APIs that are not OpenAI's, by the paths below which they are.
    """

    def __init__(self, app: ASGIApp, envelopes: Mapping[str, Envelope]) -> None:
        self._app, self._envelopes = app, envelopes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientLeft:
            raise
        except Exception as error:
            if started:
                raise
            answer = self._envelope(scope)(from_exception(error))
            await answer(scope, receive, send)

    def _envelope(self, scope: Scope) -> Envelope:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        for place, envelope in self._envelopes.items():
            if path == place or path.startswith(f"{place}/"):
                return envelope
        return APIError.response


async def on_validation(request: Request, error: RequestValidationError) -> NoReturn:
    raise from_validation(error.errors(), error.body)


async def on_http(request: Request, error: HTTPException) -> NoReturn:
    raise _from_http(request, error)


def _from_http(request: Request, error: HTTPException) -> APIError:
    if isinstance(error.__cause__, APIError):  # FastAPI's own wrapping of what failed while reading a body
        return error.__cause__
    asked = f"{request.method} {request.url.path}"
    messages = {
        404: f"Unknown route: {asked}. The API is under /v1, for example POST /v1/chat/completions.",
        405: f"Method not allowed: {asked}. Use {(error.headers or {}).get('Allow')}.",
    }
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    message = messages.get(error.status_code, str(error.detail))
    return APIError(error.status_code, message, code=code, headers=error.headers)
