"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from gateway.answers.respond import ignored_header
from gateway.answers.vectors import vectors
from gateway.deps import ExchangeDep
from gateway.document import whole
from gateway.json_body import JSONRoute
from gateway.openai.embeddings.reply import EmbeddingList, embedding_list
from gateway.openai.embeddings.request import CreateEmbeddingRequest, embedding_request, ignored

router = APIRouter(tags=["embeddings"], route_class=JSONRoute)


@router.post("/embeddings", responses=whole(EmbeddingList))
async def create_embeddings(body: CreateEmbeddingRequest, exchange: ExchangeDep) -> Response:
    """One vector for each text, or for each list of tokens."""
    await exchange.gateway.model(body.model, "embedding")
    answer = await vectors(exchange, embedding_request(body, exchange.id))
    content = await asyncio.to_thread(embedding_list, answer, body.model, body.encoding_format == "base64")
    return Response(content, media_type="application/json", headers=ignored_header(ignored(body)))
