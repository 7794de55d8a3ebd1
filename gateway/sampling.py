"""How an answer is sampled, in the words that all APIs share, and how it reaches the worker.

A parameter of the sampler is a field here and one of the same name in the worker's SamplingParams.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.json_body import StrictBody
from gateway.marks import Refused
from worker.protocol import RECOMMENDABLE, SamplingParams

MAX_INT32 = 2**31 - 1
MAX_STOP_STRINGS = 16  # OpenAI's own servers take 4, llama.cpp's and vLLM's clients send more


def _token_biases(biases: dict[str, float]) -> dict[str, float]:
    for token, bias in biases.items():
        if not (token.isascii() and token.isdecimal()) or int(token) > MAX_INT32:
            raise ValueError(f"keys are token ids, so {token!r} should be a whole number")
        if not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} should be from -100 to 100")
    return biases


def _whole(value: Any) -> Any:
    """10.0, as languages without whole numbers write 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit(value: int) -> int:
    if value == 0:
        raise ValueError("it should be 1 or more, or -1 for no limit but the context's end")
    return value


def _off(value: Any) -> Any:
    """vLLM's -1 switches the sampler off, as llama.cpp's 0 does."""
    return 0 if value == -1 else value


UNLIMITED = -1
Tokens = Annotated[int, BeforeValidator(_whole), Field(ge=UNLIMITED, le=MAX_INT32)]
TokenLimit = Annotated[Tokens, AfterValidator(_limit)]


class SamplerFields(StrictBody):
    """Null means the default."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, float], AfterValidator(_token_biases)] | None = None
    # llama.cpp's own; the SDKs send them through `extra_body`.
    top_k: Annotated[int, BeforeValidator(_off), Field(ge=0, le=MAX_INT32)] | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=10)
    mirostat_mode: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0, le=100)
    mirostat_eta: float | None = Field(default=None, ge=0, le=1)
    # llama.cpp's parser trusts the author of a grammar: some crash it, some keep it busy for ever.
    grammar: Annotated[
        str | None, Refused("send a chat completion with 'response_format' or 'guided_regex' instead.")
    ] = None


# The fields that reach the worker as they stand.
_SAME_NAME = SamplerFields.model_fields.keys() & {field.name for field in dataclasses.fields(SamplingParams)}


def sampling_params(
    body: SamplerFields, *, stop: str | Sequence[str] | None, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    given: dict[str, Any] = {name: getattr(body, name) for name in _SAME_NAME}
    given |= {
        "stop": tuple(filter(None, [stop] if isinstance(stop, str) else stop or [])),
        "logit_bias": {int(token): bias for token, bias in (body.logit_bias or {}).items()},
        "max_tokens": None if max_tokens == UNLIMITED else max_tokens,
        "logprobs": logprobs,
        "left_to_model": frozenset(name for name in RECOMMENDABLE if given[name] is None),
    }
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})
