"""The HTTP application, the same in this process and on Modal."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.middleware import Middleware

from gateway import document, errors
from gateway.access.auth import KeyRing, RequireKey
from gateway.access.body_limit import BodyLimit
from gateway.access.cors import CrossOrigin
from gateway.answers.respond import IGNORED_HEADER
from gateway.backends.base import Backend
from gateway.deps import Gateway
from gateway.legacy import generate
from gateway.openai.chat import route as chat
from gateway.openai.completions import route as completions
from gateway.openai.models import route as models
from gateway.ops import health
from gateway.ops.logs import LastResort, RequestContext
from gateway.settings import GatewaySettings, split_list


def create_app(backend: Backend, settings: GatewaySettings, stopping: asyncio.Event | None = None) -> FastAPI:
    """The routes, behind the limits; with keys, all but /health and the docs needs one.

    Once `stopping` is set, answers under way have SHUTDOWN_GRACE_SECONDS left.
    """
    app = FastAPI(
        title="llama-gateway",
        version="0.1.0",
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
    for routes in (chat, completions, generate, models, health):
        app.include_router(routes.router, responses=document.ERROR_RESPONSES)
    document.install(app, document.ChatCompletionChunk)
    return app
