"""The HTTP application, the same in this process and on Modal."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.middleware import Middleware

from gateway import __version__, errors, openapi
from gateway.auth import KeyRing, RequireKey
from gateway.backends import Backend
from gateway.context import Gateway
from gateway.cors import CrossOrigin
from gateway.limits import BodyLimit
from gateway.routes import chat, completions, generate, models, ops
from gateway.routes.answers import IGNORED_HEADER
from gateway.settings import GatewaySettings, split_list
from gateway.telemetry import LastResort, RequestContext


def create_app(backend: Backend, settings: GatewaySettings, stopping: asyncio.Event | None = None) -> FastAPI:
    """The routes, behind the limits; with keys, all but /health and the docs needs one.

    Once `stopping` is set, answers under way have SHUTDOWN_GRACE_SECONDS left.
    """
    app = FastAPI(
        title="llama-gateway",
        version=__version__,
        description="Any GGUF model behind the OpenAI API.",
        middleware=[
            Middleware(RequestContext),
            Middleware(
                CrossOrigin,
                allow_origins=split_list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", IGNORED_HEADER],
            ),
            Middleware(LastResort),  # inside of CORS, without whose headers browsers show no error
            Middleware(RequireKey, keys=KeyRing(settings.key_list)),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
    )
    app.state.gateway = Gateway(backend, settings, stopping or asyncio.Event())
    errors.install(app)
    for routes in (chat, completions, generate, models, ops):
        app.include_router(routes.router, responses=openapi.ERROR_RESPONSES)
    openapi.install(app, openapi.ChatCompletionChunk)
    return app
