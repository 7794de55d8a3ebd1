"""What routes are handed: the backend and settings that the app was built with, and one exchange."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from gateway.access.auth import owner_of
from gateway.backends.base import Backend
from gateway.caller import ANYBODY, caller_of
from gateway.errors import model_not_found
from gateway.record import RequestRecord
from gateway.settings import GatewaySettings
from worker.protocol import ModelInfo, ModelKind, WrongKind


@dataclass(frozen=True, slots=True)
class Gateway:
    """`stopping` is set when the server is told to stop; who holds `deep_check` has a token computed."""

    backend: Backend
    settings: GatewaySettings
    stopping: asyncio.Event
    deep_check: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def model(self, name: str, kind: ModelKind = "chat") -> ModelInfo:
        """The served model of that name, for what its kind does. Raises `WrongKind`, or as `served`."""
        model = await self.served(name)
        if model.kind != kind:
            raise WrongKind(name, model.kind)
        return model

    async def served(self, name: str) -> ModelInfo:
        """The model of that name, whatever its kind. Raises a 404 that lists what is served."""
        models = await self.backend.models()
        for model in models:
            if model.id == name:
                return model
        raise model_not_found(name, [model.id for model in models])

    async def first_chat_model(self) -> ModelInfo:
        """For routes whose callers name none. Raises WrongKind."""
        models = await self.backend.models()
        for model in models:
            if model.kind == "chat":
                return model
        raise WrongKind(models[0].id, models[0].kind)

    async def grace_is_over(self) -> None:
        """Return when the server is stopping and answers under way have had their time to finish."""
        await self.stopping.wait()
        await asyncio.sleep(self.settings.shutdown_grace_seconds)


# Coroutines, all of them: FastAPI would send a plain function or a class through a thread for each request.
async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]


class Exchange:
    """One request under way: its id, who asks, the gateway that answers it, and the client that may leave.

    `owner` is by what what is kept of a request can be read again: the key's name, where keys are asked for.
    """

    def __init__(self, request: Request, gateway: Gateway) -> None:
        self.record: RequestRecord = request.state.record
        self.id = self.record.worker_id
        self.caller = caller_of(request.scope) or ANYBODY  # batches run inside, behind no key
        self.owner = owner_of(request.scope)
        self.gateway = gateway
        self._receive = request.receive

    async def disconnected(self) -> None:
        """Return when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _exchange(request: Request, gateway: GatewayDep) -> Exchange:
    return Exchange(request, gateway)


ExchangeDep = Annotated[Exchange, Depends(_exchange)]
