"""Log probabilities, token by token, each with its bytes and its alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from worker.protocol import TokenLogprob


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(TypedDict):
    content: list[TokenLogprobs]
    refusal: None


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> Logprobs | None:
    return {"content": token_logprobs(tokens), "refusal": None} if tokens else None


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[TokenLogprobs]:
    return [{**_logprob(token), "top_logprobs": list(map(_logprob, token.top))} for token in tokens]


def _logprob(token: TokenLogprob) -> TopLogprob:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
