"""By which names a server without keys may be called.

A page on the web can let its own name resolve to 127.0.0.1 and then call, from the browser of whoever looks
at it, what listens there (DNS rebinding). The browser still says the page's name as Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import APIError


class KnownHosts:
    """Lets through addresses, localhost, and `names`. A request without Host is not a browser's."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host")
            if host and not self._knows(_without_port(host).lower()):
                raise _refusal()
        await self._app(scope, receive, send)

    def _knows(self, name: str) -> bool:
        return name in self._names or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal() -> APIError:
    message = (
        "This server asks for no key and so answers only under localhost or an address, not under the name "
        "in this request's Host header. Add the name to ALLOWED_HOSTS, or set API_KEYS."
    )
    return APIError(403, message, type="permission_error", code="host_not_allowed")
