"""Whether the process lives, and whether it can answer."""

from __future__ import annotations

import asyncio
import secrets

from fastapi import APIRouter

from gateway.deps import Gateway, GatewayDep
from gateway.errors import APIError
from worker.protocol import (
    CompletionRequest,
    EmbeddingRequest,
    ModelInfo,
    Request,
    SamplingParams,
    WorkerError,
)

DEEP_SECONDS = 10.0  # a token has to come by then

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(gateway: GatewayDep) -> dict[str, str]:
    """200 while the process lives; 503 where only a restart helps."""
    await gateway.backend.check()
    return {"status": "ok"}


@router.get("/ready")
async def ready(gateway: GatewayDep, deep: bool = False) -> dict[str, str]:
    """200 while requests are answered, 503 with the reasons while they are not. `deep` computes a token."""
    reasons = list(await gateway.backend.not_ready())
    if gateway.stopping.is_set():
        reasons.append("The server is stopping.")
    if deep and not reasons:
        answers = [await _ask(gateway, model) for model in await gateway.backend.running_models()]
        reasons = [why for why in answers if why]
    if reasons:
        headers = {"Retry-After": "1"}
        raise APIError(503, " ".join(reasons), type="server_error", code="not_ready", headers=headers)
    return {"status": "ready"}


def _small_request(model: ModelInfo) -> Request:
    id = f"ready-{secrets.token_hex(8)}"
    if model.kind == "embedding":
        return EmbeddingRequest(id, model.id, ("a",))
    return CompletionRequest(id, model.id, ("a",), SamplingParams(max_tokens=1), stream=False)


async def _ask(gateway: Gateway, model: str) -> str:
    """Why the model's worker does not compute a token. One at a time, whoever asks: it needs no key."""
    try:
        request = _small_request(await gateway.served(model))
        async with asyncio.timeout(DEEP_SECONDS), gateway.deep_check:
            async for _ in gateway.backend.chat(request):
                pass
    except TimeoutError:
        return f"No token was computed within {DEEP_SECONDS:g} seconds."
    except WorkerError as error:
        return str(error)
    return ""
