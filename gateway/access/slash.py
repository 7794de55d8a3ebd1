"""Paths with a slash at their end, as some clients join them."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class IgnoreLastSlash:
    """A redirect would lose a POST's body with some clients, and name the wrong address behind a proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root: str = scope.get("root_path", "")
            inside = scope["path"].removeprefix(root).rstrip("/")
            scope = {**scope, "path": root + (inside or "/")}
        await self._app(scope, receive, send)
