"""The page and its files: read once, served with headers that let nothing run but what is here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

STATIC = Path(__file__).parent / "static"
FILES = "/page"  # the address of what the page consists of; it is asked for relative to the page's own
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
PLAIN = "llama-gateway: GGUF models behind the OpenAI API, base URL /v1; in a browser, a page to chat.\n"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and answered by a 304
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    body: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        headers = HEADERS | {"ETag": self.etag, "Vary": "Accept"}
        known = [
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        ]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def static_file(body: bytes, media_type: str) -> StaticFile:
    return StaticFile(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def chat_page() -> tuple[APIRouter, frozenset[str]]:
    """The routes, and their paths, which hold nothing secret and need no key; the API behind them does."""
    files = {
        f"{FILES}/{path.relative_to(STATIC).as_posix()}": static_file(
            path.read_bytes(), MEDIA_TYPES[path.suffix]
        )
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    page = files.pop(f"{FILES}/index.html")
    plain = static_file(PLAIN.encode(), "text/plain; charset=utf-8")
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        """HTML for browsers, which name it; one line for curl."""
        return (page if "text/html" in request.headers.get("accept", "") else plain).answer(request)

    for path, file in files.items():
        router.add_api_route(path, file.answer)
    return router, frozenset({"/", *files})
