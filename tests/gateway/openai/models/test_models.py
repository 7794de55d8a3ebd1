"""The list of models."""

from __future__ import annotations

import httpx


def test_models_are_listed_and_found(client: httpx.Client) -> None:
    listing = client.get("/v1/models").json()
    context = {"max_model_len": 512, "meta": {"n_ctx": 512}, "capabilities": ["completion"]}
    model = {
        "id": "test-model",
        "object": "model",
        "created": 1700000000,
        "owned_by": "llama-gateway",
        **context,
    }
    assert listing == {"object": "list", "data": [model]}
    assert client.get("/v1/models/test-model").json() == model
