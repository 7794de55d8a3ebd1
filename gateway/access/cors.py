"""Which browser pages may call the API."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from gateway.errors import APIError


class CrossOrigin(CORSMiddleware):
    """Starlette's, whose refusals are errors like any other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        why = bytes(response.body).decode()
        message = (
            f"{why}. Pages from the origins in CORS_ORIGINS may call this server, by GET, POST and DELETE."
        )
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return APIError(400, message, code="cors_refused", headers=headers).response()
