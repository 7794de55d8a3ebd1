"""For whoever runs the server."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.deps import GatewayDep

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(gateway: GatewayDep) -> dict[str, str]:
    """200 while requests can be answered, 503 with the reason when they cannot."""
    await gateway.backend.check()
    return {"status": "ok"}
