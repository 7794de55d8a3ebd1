"""What uvicorn leaves out for clients that speak HTTP/1.0: no chunks, an answer ends with its connection."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UntilClosed(int):
    """The length of a body that no header tells: whatever was sent, it is neither too long nor too short."""

    def __lt__(self, sent: int) -> bool:
        return False

    def __sub__(self, sent: int) -> UntilClosed:
        return self

    def __ne__(self, rest: object) -> bool:
        return False


class Protocol(HttpToolsProtocol):
    """HTTP/1.1, and HTTP/1.0 without chunks."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        cycle: Any = self.cycle
        if self.scope.get("http_version") == "1.0" and cycle.scope is self.scope:
            cycle.chunked_encoding = False
            cycle.expected_content_length = UntilClosed()
