"""Keys that clients send: found in their headers, and asked for wherever something is to be had."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.caller import set_caller
from gateway.access.keys import KeyRing
from gateway.errors import APIError

PUBLIC_PATHS = {"/health", "/ready"}  # probes send no keys


class RequireKey:
    """Closed by default: every path but PUBLIC_PATHS, before the body is read. Requests keep their caller."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            key = _key(Headers(scope=scope))
            caller = self._keys.caller(key)
            set_caller(scope, caller)
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if caller is None and path not in PUBLIC_PATHS:
                raise _refusal(bool(key))
        await self._app(scope, receive, send)


def _key(headers: Headers) -> str:
    """As bearer token, or as Anthropic's and Azure's clients send it. Empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key", "")


def _refusal(sent: bool) -> APIError:
    message = (
        "Incorrect API key provided. Ask whoever runs this server for a valid one."
        if sent
        else "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'."
    )
    return APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
