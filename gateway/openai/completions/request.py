"""Text completions as they come in: text continued as it stands, without a chat template."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from gateway.errors import invalid, unsupported
from gateway.marks import refuse_unsupported
from gateway.openai.sampling import MAX_CHOICES, SamplingFields
from gateway.sampling import MAX_INT32, Tokens, sampling_params
from worker.protocol import CompletionRequest

_NO_PROMPT = "<|endoftext|>"  # what the legacy API continues unless told
_MAX_TOKENS = 16  # how many tokens the legacy API writes unless told


def _prompt_kind(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "lists" if isinstance(first, list) else "tokens" if isinstance(first, int) else "texts"


TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT32)]], Field(min_length=1)]
Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES), Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES), Tag("lists")],
    Discriminator(_prompt_kind),
]


class TextCompletionRequest(SamplingFields):
    """The legacy completions of OpenAI's reference."""

    prompt: Prompts | None = None
    max_tokens: Tokens | None = None
    best_of: int | None = Field(default=None, ge=1, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    suffix: str | None = None


def completion_request(body: TextCompletionRequest, request_id: str) -> CompletionRequest:
    """Raises APIError for what cannot be honoured."""
    refuse_unsupported(body)
    n = body.n or 1
    if body.suffix:
        raise unsupported("suffix", "text can only be continued here, not filled in.")
    if body.best_of not in (None, n):
        raise unsupported("best_of", "every choice that is made is returned. Leave it out or set it to 'n'.")
    if body.max_tokens == 0 and not (body.echo and body.logprobs is not None):
        why = "0 asks for no text at all, which makes sense with 'echo' and 'logprobs' only. Send 1 or more."
        raise unsupported("max_tokens", why)
    prompts = _prompts(_NO_PROMPT if body.prompt is None else body.prompt)
    if len(prompts) * n > MAX_CHOICES:
        raise invalid(f"All prompts together may have at most {MAX_CHOICES} choices.", "n")
    return CompletionRequest(
        request_id=request_id,
        model=body.model,
        prompts=prompts,
        sampling=sampling_params(
            body,
            stop=body.stop,
            max_tokens=_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            logprobs=body.logprobs,
        ),
        n=n,
        echo=bool(body.echo),
        stream=bool(body.stream),
    )


def _prompts(prompt: Prompts) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(part if isinstance(part, str) else tuple(part) for part in prompt)
