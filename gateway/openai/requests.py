"""The bodies of the requests that come in, checked strictly: no coercion, and ranges as OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationInfo, field_validator

from gateway.openai.chat.schemas import (
    Content,
    FunctionChoice,
    FunctionDefinition,
    Message,
    ResponseFormat,
    Strict,
    Tool,
    ToolChoice,
)

MAX_STOP_STRINGS = 4
MAX_CHOICES = 128
MAX_GRAMMAR = 100_000
MAX_INT32 = 2**31 - 1


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def _stop_kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "string"


Stop = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_STOP_STRINGS), Tag("list")],
    Discriminator(_stop_kind),
]


class Prediction(Strict):
    type: Literal["content"]
    content: Content


def _prompt_kind(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "lists" if isinstance(first, list) else "tokens" if isinstance(first, int) else "texts"


Token = Annotated[int, Field(ge=0, le=MAX_INT32)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES), Tag("texts")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_CHOICES), Tag("lists")],
    Discriminator(_prompt_kind),
]


class SamplingFields(Strict):
    """What chat and text completions have in common; null means the default."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: Stop | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    # llama.cpp's own; the SDK sends them through `extra_body`.
    top_k: int | None = Field(default=None, ge=0, le=MAX_INT32)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=10)
    mirostat_mode: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0, le=100)
    mirostat_eta: float | None = Field(default=None, ge=0, le=1)
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR)] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (value or {}).items():
            if not (token.isascii() and token.isdecimal()) or int(token) > MAX_INT32:
                raise ValueError(f"keys are token ids, so {token!r} should be a whole number")
            if not -100 <= bias <= 100:
                raise ValueError(f"the bias of token {token} should be from -100 to 100")
        return value

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("it is only allowed when 'stream' is true")
        return value


class ChatCompletionRequest(SamplingFields):
    """All 37 parameters of OpenAI's reference, and llama.cpp's own."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Field(min_length=1, max_length=128)] | None = None
    function_call: FunctionChoice | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Hints, checked and reported as ignored.
    metadata: dict[str, str] | None = None
    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: Prediction | None = None
    # Refused, because they would change the answer.
    store: bool | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("it is only allowed when 'logprobs' is true")
        return value


class TextCompletionRequest(SamplingFields):
    """The legacy completions of OpenAI's reference: text in, text out, without a chat template."""

    prompt: Prompts | None = None
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_INT32)
    best_of: int | None = Field(default=None, ge=1, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    suffix: str | None = None


class GenerateRequest(Strict):
    """The first deployment's own shape."""

    message: Annotated[str, Field(min_length=1)]


class GenerateResponse(BaseModel):
    response: str
