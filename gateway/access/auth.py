"""Keys that clients send: found in their headers, and asked for wherever something is to be had."""

from __future__ import annotations

import hashlib
from collections.abc import Set

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.keys import KeyRing
from gateway.caller import ANYBODY, caller_of, set_caller
from gateway.errors import APIError

PUBLIC_PATHS = frozenset({"/health", "/ready"})  # probes send no keys


class RequireKey:
    """Closed by default: every path but the public ones, before the body is read. Keeps the caller."""

    def __init__(self, app: ASGIApp, keys: KeyRing, public: Set[str] = PUBLIC_PATHS) -> None:
        self._app, self._keys, self._public = app, keys, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            key = sent_key(Headers(scope=scope))
            caller = self._keys.caller(key)
            set_caller(scope, caller)
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if caller is None and path not in self._public:
                raise _refusal(bool(key))
        await self._app(scope, receive, send)


def sent_key(headers: Headers) -> str:
    """As bearer token, or as Anthropic's and Azure's clients send it. Empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key", "")


def owner_of(scope: Scope) -> str:
    """By whose name what is kept of a request can be read again: a new key finds what the old one left.

    Where no keys are asked for, any key that is sent will do for a name.
    """
    caller = caller_of(scope)
    named = sent_key(Headers(scope=scope)) if caller is None or caller is ANYBODY else f"{caller.name}:"
    return hashlib.sha256(named.encode("latin-1")).hexdigest()


def _refusal(sent: bool) -> APIError:
    message = (
        "Incorrect API key provided. Ask whoever runs this server for a valid one."
        if sent
        else "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'."
    )
    return APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
