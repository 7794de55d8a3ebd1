"""Embeddings as they come in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gateway.json_body import StrictBody
from gateway.marks import Hint, hints
from gateway.sampling import MAX_INT32
from worker.protocol import EmbeddingRequest

MAX_INPUTS = 2048


def _kind(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "lists" if isinstance(first, list) else "tokens" if isinstance(first, int) else "texts"


Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT32)]], Field(min_length=1)]
Inputs = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS), Tag("lists")],
    Discriminator(_kind),
]


class CreateEmbeddingRequest(StrictBody):
    """The embeddings of OpenAI's reference."""

    model: str
    input: Inputs
    dimensions: int | None = Field(default=None, ge=1)
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str | None, Hint()] = None


def embedding_request(body: CreateEmbeddingRequest, request_id: str) -> EmbeddingRequest:
    return EmbeddingRequest(request_id, body.model, _inputs(body.input), body.dimensions)


def ignored(body: CreateEmbeddingRequest) -> Iterable[str]:
    """Hints that were given, and fields that the API does not have."""
    yield from hints(body)
    yield from sorted(body.model_extra or {})


def _inputs(given: Inputs) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given[0], int):
        return (tuple(given),)
    return tuple(part if isinstance(part, str) else tuple(part) for part in given)
