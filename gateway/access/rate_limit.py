"""How much each caller may ask for: requests and tokens a minute, and requests at once.

Minutes are fixed windows, so that what is left and when there is more can be told exactly, and tokens be
charged once they are known: by what was used, not by what was asked for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.caller import Allowance, caller_of
from gateway.errors import APIError
from gateway.record import RequestRecord
from gateway.settings import GatewaySettings, StartError

LIMITED_ROUTES = frozenset(
    {"chat/completions", "completions", "responses", "embeddings", "messages", "generate"}
)
HEADERS = tuple(
    f"x-ratelimit-{which}-{what}"
    for which in ("limit", "remaining", "reset")
    for what in ("requests", "tokens")
)
STORAGE_SECONDS = 1.0  # how long a store of counts that does not answer may hold up a request
CONCURRENT_RETRY_SECONDS = 1.0  # nobody knows when an answer ends

T = TypeVar("T")

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Window:
    """What is left of a limit, and the seconds until all of it is there again."""

    limit: int
    remaining: int
    reset: float

    def headers(self, what: str) -> dict[str, str]:
        """By OpenAI's names, with durations as its servers write them."""
        return {
            f"x-ratelimit-limit-{what}": str(self.limit),
            f"x-ratelimit-remaining-{what}": str(self.remaining),
            f"x-ratelimit-reset-{what}": f"{math.ceil(self.reset * 1000)}ms",
        }


class RateLimit:
    """Refuses with a 429 before the body is read, and charges what an answer took when it has ended."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, counts: Storage) -> None:
        self._app = app
        self._default = Allowance(
            settings.rate_limit_requests, settings.rate_limit_tokens, settings.rate_limit_concurrent
        )
        self._windows = FixedWindowRateLimiter(counts)
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope) if scope["type"] == "http" else None
        if caller is None or scope["method"] != "POST" or not _is_limited(scope):
            return await self._app(scope, receive, send)
        allowance = caller.allowance
        concurrent = _chosen(allowance.concurrent, self._default.concurrent)
        if concurrent and self._under_way[caller.name] >= concurrent:
            raise _too_many_at_once(concurrent)
        self._under_way[caller.name] += 1
        try:
            await self._limited(scope, receive, send, caller.name, allowance)
        finally:
            self._under_way[caller.name] -= 1
            if not self._under_way[caller.name]:
                del self._under_way[caller.name]

    async def _limited(
        self, scope: Scope, receive: Receive, send: Send, name: str, allowance: Allowance
    ) -> None:
        tokens_a_minute = _chosen(allowance.tokens, self._default.tokens)
        headers: dict[str, str] = {}
        if tokens_a_minute:
            window = await self._window("tokens", tokens_a_minute, name)
            headers |= window.headers("tokens")
            if not window.remaining:
                raise _too_many("tokens", window, headers)
        if requests_a_minute := _chosen(allowance.requests, self._default.requests):
            allowed = await self._hit("requests", requests_a_minute, name, 1)
            window = await self._window("requests", requests_a_minute, name)
            headers |= window.headers("requests")
            if not allowed:
                raise _too_many("requests", window, headers)

        charged = False

        async def charge() -> None:
            nonlocal charged
            record: RequestRecord = scope["state"]["record"]
            if tokens_a_minute and not charged and (used := record.tokens):
                charged = True
                # Whoever left while it was computed pays as well: the charge outlives the request's task.
                await asyncio.shield(self._hit("tokens", tokens_a_minute, name, used))

        async def send_and_charge(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            elif not message.get("more_body", False):
                await charge()  # before the client sees the end, so that its next request is told the truth
            await send(message)

        try:
            await self._app(scope, receive, send_and_charge)
        finally:
            await charge()

    async def _hit(self, what: str, limit: int, name: str, cost: int) -> bool:
        hit = self._windows.hit(_item(limit), what, name, cost=cost)
        return await _or_else(lambda: hit, True)

    async def _window(self, what: str, limit: int, name: str) -> Window:
        stats = await _or_else(lambda: self._windows.get_window_stats(_item(limit), what, name), None)
        if stats is None:
            return Window(limit, limit, 0.0)
        return Window(limit, max(0, stats.remaining), max(0.0, stats.reset_time - time.time()))


def counts(settings: GatewaySettings) -> Storage:
    """Where requests and tokens are counted. Raises StartError for a Redis that cannot be asked."""
    url = settings.rate_limit_redis.get_secret_value()
    return _redis(url) if url else MemoryStorage()


def _item(limit: int) -> RateLimitItem:
    return RateLimitItemPerMinute(limit, namespace="llama-gateway")


def _chosen(own: int | None, default: int | None) -> int:
    return (default or 0) if own is None else own


def _is_limited(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.strip("/").removeprefix("v1/") in LIMITED_ROUTES


async def _or_else(ask: Callable[[], Awaitable[T]], otherwise: T) -> T:
    """A store that is away must not be an outage: nothing is counted, and the log says so."""
    try:
        async with asyncio.timeout(STORAGE_SECONDS):  # wait_for would make a task of it
            return await ask()
    except (StorageError, TimeoutError) as error:
        log.warning("rate_limits_not_counted", why=repr(error))
        return otherwise


def _redis(url: str) -> Storage:
    try:
        storage = storage_from_string(f"async+{url}", implementation="redispy", wrap_exceptions=True)
    except Exception as error:  # the library's own, of several kinds; the URL may hold a password
        raise StartError(
            "RATE_LIMIT_REDIS cannot be used: it has to be redis://HOST:PORT or rediss://…, and the package "
            f"redis has to be installed: pip install 'llama-gateway[redis]'. ({type(error).__name__})"
        ) from None
    assert isinstance(storage, Storage)
    return storage


def _too_many(what: str, window: Window, headers: dict[str, str]) -> APIError:
    message = (
        f"Rate limit reached: {window.limit} {what} a minute for this key. Please try again in "
        f"{window.reset:.1f} s."
    )
    return _refusal(message, what, window.reset, headers)


def _too_many_at_once(limit: int) -> APIError:
    message = f"This key has {limit} requests under way, as many as it may at once. Wait for one to end."
    return _refusal(message, "requests", CONCURRENT_RETRY_SECONDS, {})


def _refusal(message: str, what: str, seconds: float, headers: dict[str, str]) -> APIError:
    retry = {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
    return APIError(429, message, type=what, code="rate_limit_exceeded", headers={**headers, **retry})
