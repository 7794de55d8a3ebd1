"""Keys that clients send, compared in constant time and never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence, Set

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import APIError

PUBLIC_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})


class KeyRing:
    """The accepted keys. Empty means that the server is open, which start-up allows only on purpose."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, headers: Headers) -> None:
        """Raise a 401 unless the headers carry one of the keys."""
        if not self._digests:
            return
        key = sent_key(headers)
        if not key:
            raise _refusal("You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'.")
        digest = _digest(key.encode("latin-1"))  # the bytes that were sent: UTF-8, as a rule
        # Every key is compared, so that timing tells nothing of which one came close.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):
            raise _refusal("Incorrect API key provided. Ask whoever runs this server for a valid one.")


class RequireKey:
    """Closed by default: every path but the public ones, before the body is read."""

    def __init__(self, app: ASGIApp, keys: KeyRing, public: Set[str] = PUBLIC_PATHS) -> None:
        self._app, self._keys, self._public = app, keys, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path not in self._public:
                self._keys.check(Headers(scope=scope))
        await self._app(scope, receive, send)


def sent_key(headers: Headers) -> str:
    """As bearer token, or as Anthropic's and Azure's clients send it. Empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key", "")


def owner_of(headers: Headers) -> str:
    """By whose key what is kept of a request can be read again. Where no keys are asked for, any will do."""
    return hashlib.sha256(sent_key(headers).encode("latin-1")).hexdigest()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refusal(message: str) -> APIError:
    return APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
