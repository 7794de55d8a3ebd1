"""The HTTP application, the same in this process and on Modal."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from gateway import __version__, document, errors
from gateway.access.auth import PUBLIC_PATHS, RequireKey
from gateway.access.body_limit import BodyLimit
from gateway.access.cors import CrossOrigin
from gateway.access.head import HeadAsGet
from gateway.access.hosts import KnownHosts
from gateway.access.keys import KeyRing
from gateway.access.rate_limit import HEADERS as RATE_LIMIT_HEADERS
from gateway.access.rate_limit import RateLimit, counts
from gateway.access.slash import IgnoreLastSlash
from gateway.answers.respond import IGNORED_HEADER
from gateway.anthropic.errors import error_response as anthropic_error
from gateway.anthropic.messages.route import PATH as MESSAGES
from gateway.anthropic.messages.route import router as messages
from gateway.backends.base import Backend
from gateway.chat_page.route import chat_page
from gateway.deps import Gateway
from gateway.legacy.generate import router as generate
from gateway.openai.batch_runner import BatchRunner
from gateway.openai.batches.inside import post_to
from gateway.openai.batches.local import LocalBatches
from gateway.openai.batches.route import router as batches
from gateway.openai.batches.run import BatchRun, PlacesUpTo
from gateway.openai.chat.route import router as chat
from gateway.openai.completions.route import router as completions
from gateway.openai.embeddings.route import router as embeddings
from gateway.openai.file_store import FileStore
from gateway.openai.files.route import router as files
from gateway.openai.models.route import router as models
from gateway.openai.responses.route import router as responses
from gateway.openai.responses.store import ResponseStore
from gateway.ops.admission import Admission
from gateway.ops.context import NoteRoute, RequestContext
from gateway.ops.health import router as health
from gateway.ops.metrics import Metrics, metrics_router
from gateway.settings import GatewaySettings, StartError, split_list

if TYPE_CHECKING:
    from gateway.ops.tracing import Tracing


def create_app(
    backend: Backend,
    settings: GatewaySettings,
    stopping: asyncio.Event | None = None,
    tracing: Tracing | None = None,
    batches_elsewhere: BatchRunner | None = None,
) -> FastAPI:
    """The routes, behind the limits; with keys, all but the probes needs one.

    Raises StartError where keys cannot be read, responses not be kept, or spans not be sent. Once `stopping`
    is set, answers under way have SHUTDOWN_GRACE_SECONDS left. Batches run here, or `batches_elsewhere`.
    """
    metrics, stopping = Metrics(), stopping or asyncio.Event()
    page, page_paths = chat_page() if settings.chat_page else (APIRouter(), frozenset[str]())
    app = FastAPI(
        title="llama-gateway",
        version=__version__,
        description="Any GGUF model behind OpenAI's and Anthropic's APIs.",
        responses=document.ERROR_RESPONSES,
        lifespan=_running_batches,
        exception_handlers=_handlers(),
        middleware=[
            Middleware(RequestContext, metrics=metrics, tracing=tracing or _tracing(settings)),
            Middleware(
                CrossOrigin,
                allow_origins=split_list(settings.cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=[
                    "x-request-id",
                    "request-id",
                    IGNORED_HEADER,
                    "retry-after",
                    "retry-after-ms",
                    *RATE_LIMIT_HEADERS,
                ],
            ),
            Middleware(HeadAsGet),
            Middleware(IgnoreLastSlash),
            # Inside of CORS, without whose headers browsers show no error.
            Middleware(
                errors.AnswerErrors,
                envelopes={f"/v1{MESSAGES}": anthropic_error, MESSAGES: anthropic_error},
            ),
            Middleware(Admission, stopping=stopping),
            *_known_hosts(settings),
            Middleware(RequireKey, keys=KeyRing(settings), public=_public_paths(settings) | page_paths),
            Middleware(RateLimit, settings=settings, counts=counts(settings)),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes, elsewhere=_larger_bodies(settings)),
            Middleware(NoteRoute),
        ],
    )
    app.state.gateway = Gateway(backend, settings, stopping)
    app.state.responses = ResponseStore(
        settings.responses_db, max_bytes=settings.responses_mb << 20, seconds=settings.responses_seconds
    )
    app.state.files = FileStore(
        settings.files_dir or _temporary_folder(),
        max_bytes=settings.files_mb << 20,
        seconds=settings.files_seconds,
    )
    app.state.batches = batches_elsewhere or LocalBatches(
        app.state.files, post_to(inside_of(app, metrics)), backend.stats
    )
    for router in (chat, completions, responses, embeddings, messages, models, files, batches):
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)  # for clients whose base URL lacks the /v1
    for router in (generate, health, metrics_router(metrics), page):
        app.include_router(router)
    document.install(app)
    return app


def _known_hosts(settings: GatewaySettings) -> list[Middleware]:
    """With keys, or where anybody may ask, a name is no secret and the check would only be in the way."""
    names = split_list(settings.allowed_hosts)
    if settings.asks_for_keys or (settings.allow_anonymous and not names):
        return []
    return [Middleware(KnownHosts, names=names)]


def _handlers() -> dict[int | type[Exception], Any]:
    return {RequestValidationError: errors.on_validation, HTTPException: errors.on_http}


def inside_of(app: FastAPI, metrics: Metrics) -> FastAPI:
    """What the requests of batches go to: the same routes, without what is for clients from outside."""
    inside = FastAPI(
        openapi_url=None,
        exception_handlers=_handlers(),
        middleware=[
            Middleware(RequestContext, metrics=metrics),
            Middleware(errors.AnswerErrors, envelopes={}),
            Middleware(NoteRoute),
        ],
    )
    inside.state = app.state
    for router in (chat, completions, responses, embeddings):
        inside.include_router(router, prefix="/v1")
    return inside


def answering_batches(app: FastAPI, most_running: int) -> Callable[..., Awaitable[None]]:
    """`run(owner, batch_id, cancelled=, saved=)`, for a process that runs batches and serves nobody."""

    async def run(owner: str, batch_id: str, **told: Callable[[], Awaitable[object]]) -> None:
        post, places = post_to(inside_of(app, Metrics())), PlacesUpTo(most_running)
        await BatchRun(app.state.files, owner, batch_id, post=post, places=places, **told).run()

    return run


@contextlib.asynccontextmanager
async def _running_batches(app: FastAPI) -> AsyncGenerator[None]:
    """What is kept is closed at the end; batches stop before answers are cut off, to go on from there."""
    running = asyncio.ensure_future(app.state.batches.run())

    async def end_with_the_server() -> None:
        await app.state.gateway.stopping.wait()
        running.cancel()

    watching = asyncio.ensure_future(end_with_the_server())
    yield
    for task in (watching, running):
        task.cancel()
    await asyncio.gather(watching, running, return_exceptions=True)
    app.state.responses.close()
    if app.state.gateway.settings.files_dir is None:
        await asyncio.to_thread(shutil.rmtree, app.state.files.folder, ignore_errors=True)


def _temporary_folder() -> Path:
    """Made when it is first written to."""
    return Path(tempfile.gettempdir()) / f"llama-gateway-{secrets.token_hex(12)}"


def _larger_bodies(settings: GatewaySettings) -> dict[str, int]:
    """Files, with what their form adds."""
    most = (settings.file_mb << 20) + (64 << 10)
    return {"/v1/files": most, "/files": most}


def _tracing(settings: GatewaySettings) -> Tracing | None:
    if not settings.tracing:
        return None
    try:
        from gateway.ops.tracing import tracing_to_collector
    except ImportError as error:
        raise StartError(
            f"TRACING needs {error.name}, which is not installed: pip install 'llama-gateway[tracing]'."
        ) from error
    return tracing_to_collector()


def _public_paths(settings: GatewaySettings) -> frozenset[str]:
    return PUBLIC_PATHS | {"/metrics"} if settings.metrics_public else PUBLIC_PATHS
