"""Request bodies as JSON, more strictly than Python decodes it; each fault has its own sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from gateway.errors import APIError, invalid
from worker.protocol import MAX_NESTING, nests_too_deep

P = TypeVar("P")
S = TypeVar("S")


class StrictBody(BaseModel):
    """No coercion: "0.5" is not a number. Unknown fields are kept, so that they can be reported."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    def known_fields(self) -> dict[str, Any]:
        """What was given, under its own names. Nulls deeper down, as in a JSON Schema, stay."""
        return self.model_dump(include=set(type(self).model_fields), by_alias=True, exclude_none=True)


def _kind(value: object) -> str:
    return "structured" if isinstance(value, dict | list) else "plain"


# A value that is written plainly or with structure. Told apart, so that an error is about what was sent.
PlainOr = Annotated[Annotated[P, Tag("plain")] | Annotated[S, Tag("structured")], Discriminator(_kind)]


class JSONRoute(APIRoute):
    """A route whose bodies are decoded by `decoded`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            _refuse_encoding(request.headers.get("content-encoding", ""))
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


def _refuse_encoding(encoding: str) -> None:
    if encoding.lower() not in ("", "identity"):
        message = f"The body is compressed ('Content-Encoding: {encoding}'). Send it as it is."
        raise APIError(415, message, code="unsupported_content_encoding")


class _StrictRequest(Request):
    async def json(self) -> Any:
        return decoded(await self.body())


def decoded(body: bytes) -> Any:
    """The body's value. Raises APIError for what is not JSON, and for what nothing behind could handle."""
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if nests_too_deep(value):
            raise _too_deep()
        if "\\u" in text:  # in UTF-8, only escapes can make a surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise _not_json("it is not UTF-8. Send text in that encoding") from None
    except UnicodeEncodeError:
        message = (
            "The body has text with an unpaired surrogate (\\ud800 to \\udfff), which is no character. "
            "Send both halves of the pair, or the character itself in UTF-8."
        )
        raise invalid(message, code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # also Python's own, for integers of thousands of digits
        raise invalid(
            "The body has a number that is too large. Send a smaller one.", code="invalid_json"
        ) from None
    return value


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("JSON allows 1e999, but no float does")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise _not_json(f"{name} is not a number in JSON. Send a finite one, or null")


def _too_deep() -> APIError:
    message = f"The body is nested more than {MAX_NESTING} levels deep. Send a flatter one."
    return invalid(message, code="invalid_json")


def _not_json(why: str) -> APIError:
    return invalid(f"The body is not valid JSON: {why}.", code="invalid_json")
