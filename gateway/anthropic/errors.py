"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from typing import Literal

import orjson
import structlog
from fastapi import Response
from typing_extensions import TypedDict

from gateway.document import ERRORS, Responses
from gateway.errors import APIError, ServerBusy

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "overloaded_error",
    "api_error",
]
OVERLOADED = 529  # Anthropic's own status
_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class MessageErrorDetail(TypedDict):
    type: ErrorType
    message: str


class AnthropicError(TypedDict):
    """Every failure below /v1/messages, and what a stream ends with that failed on its way."""

    type: Literal["error"]
    error: MessageErrorDetail
    request_id: str | None


ERROR_RESPONSES: Responses = {
    status: {"model": AnthropicError, "description": description}
    for status, description in {**ERRORS, OVERLOADED: "The worker's queue is full."}.items()
}


def error_body(error: APIError) -> bytes:
    message = error.message
    if error.code == "context_length_exceeded":
        message = (
            f"prompt is too long: {message}"  # the words by which clients know that they must shorten it
        )
    body: AnthropicError = {
        "type": "error",
        "error": {"type": _type(error), "message": message},
        "request_id": structlog.contextvars.get_contextvars().get("request_id"),
    }
    return orjson.dumps(body)


def error_response(error: APIError) -> Response:
    status = OVERLOADED if isinstance(error, ServerBusy) else error.status
    return Response(error_body(error), status, error.headers, "application/json")


def _type(error: APIError) -> ErrorType:
    if isinstance(error, ServerBusy):
        return "overloaded_error"
    return _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
