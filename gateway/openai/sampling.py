"""What the requests of OpenAI's APIs take in common beside the sampler's own parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.json_body import PlainOr, StrictBody
from gateway.marks import Hint, hints
from gateway.sampling import MAX_STOP_STRINGS, SamplerFields, TokenLimit

MAX_CHOICES = 128

JSONObject = dict[str, Any]
StopStrings = PlainOr[str, Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)]]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
ReasoningEffort = Literal["", "none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(StrictBody):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class AnswerFields(SamplerFields):
    """Of every request for an answer."""

    model: str
    stop: StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Hint()] = None


class HostedFields(StrictBody):
    """About how OpenAI's own servers go about it: of no effect here."""

    safety_identifier: Annotated[Annotated[str, Field(max_length=128)] | None, Hint()] = None
    prompt_cache_key: Annotated[str | None, Hint()] = None
    prompt_cache_retention: Annotated[Literal["in_memory", "in-memory", "24h"] | None, Hint()] = None
    prompt_cache_options: Annotated[JSONObject | None, Hint()] = None
    service_tier: Annotated[ServiceTier | None, Hint()] = None


class SamplingFields(AnswerFields):
    """Null means the default."""

    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: TokenLimit | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def ignored(body: AnswerFields) -> Iterable[str]:
    """Hints that were given, and fields that the API does not have."""
    yield from hints(body)
    if body.stream_options and not body.stream:
        yield "stream_options"
    elif body.stream_options and body.stream_options.include_obfuscation:
        yield "stream_options.include_obfuscation"
    yield from sorted(body.model_extra or {})
