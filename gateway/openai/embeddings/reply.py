"""Embeddings as they go out: a list of vectors, as numbers or in base64."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Iterator
from typing import Literal

import orjson
from typing_extensions import TypedDict

from gateway.answers.vectors import VectorAnswer


class EmbeddingBody(TypedDict):
    """`embedding` is numbers, or in base64 float32, little endian."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage


def embedding_list(answer: VectorAnswer, model: str, base64: bool) -> bytes:
    """An EmbeddingList. Takes milliseconds where there are many vectors: not for the event loop."""
    usage: EmbeddingUsage = {"prompt_tokens": answer.num_tokens, "total_tokens": answer.num_tokens}
    # Written vector by vector: in one piece, it would keep the interpreter from all other threads.
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        b",".join(_bodies(answer, base64)),
        orjson.dumps(model),
        orjson.dumps(usage),
    )


def _bodies(answer: VectorAnswer, base64: bool) -> Iterator[bytes]:
    for index, vector in enumerate(answer.rows()):
        body: EmbeddingBody = {
            "object": "embedding",
            "index": index,
            "embedding": b64encode(vector).decode() if base64 else _numbers(vector),
        }
        yield orjson.dumps(body)


def _numbers(vector: bytes) -> list[float]:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
