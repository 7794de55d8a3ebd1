"""Chat completions as they come in: every parameter is honoured, reported as ignored, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.errors import unsupported
from gateway.json_body import StrictBody
from gateway.marks import Hint, Refused, refuse_unsupported
from gateway.openai.chat.messages import Message, template_messages
from gateway.openai.chat.tools import ToolFields, tool_use
from gateway.openai.formats import FormatFields, response_format
from gateway.openai.parts import Content
from gateway.openai.sampling import (
    HostedFields,
    JSONObject,
    ReasoningEffort,
    SamplingFields,
    TopLogprobs,
    ignored,
)
from gateway.sampling import TokenLimit, sampling_params
from worker.protocol import ChatRequest

TEXT_ONLY = 'these models answer in text only. Leave it out or send ["text"].'


class Prediction(StrictBody):
    type: Literal["content"]
    content: Content


class ChatCompletionRequest(SamplingFields, HostedFields, ToolFields, FormatFields):
    """All 37 parameters of OpenAI's reference, and llama.cpp's own."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: ReasoningEffort | None = None
    chat_template_kwargs: JSONObject | None = None
    # vLLM's: the answer goes on where the assistant's last message ends.
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    metadata: Annotated[dict[str, str] | None, Hint()] = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, Hint()] = None
    prediction: Annotated[Prediction | None, Hint()] = None
    store: Annotated[bool | None, Hint()] = None
    audio: Annotated[JSONObject | None, Refused("these models answer in text only.")] = None
    modalities: Annotated[list[Literal["text", "audio"]] | None, Refused(TEXT_ONLY, unless=["text"])] = None
    web_search_options: Annotated[JSONObject | None, Refused("this server has no access to the web.")] = None
    moderation: Annotated[JSONObject | None, Refused("this server does not moderate.")] = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("it is only allowed when 'logprobs' is true")
        return value


def chat_request(body: ChatCompletionRequest, request_id: str) -> ChatRequest:
    """Raises APIError for what cannot be honoured."""
    refuse_unsupported(body)
    use = tool_use(body)
    return ChatRequest(
        request_id=request_id,
        model=body.model,
        messages=template_messages(body.messages),
        sampling=sampling_params(
            body,
            stop=body.stop,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        n=body.n or 1,
        stream=bool(body.stream),
        tools=use.tools,
        tool_choice=use.choice,
        parallel_tool_calls=use.parallel,
        response_format=response_format(body),
        reasoning_effort=body.reasoning_effort or None,
        template_kwargs=body.chat_template_kwargs or {},
        continues=_continues(body),
    )


def _continues(body: ChatCompletionRequest) -> bool:
    continues = bool(body.continue_final_message)
    if body.add_generation_prompt is continues:
        why = f"with 'continue_final_message': {str(continues).lower()} it is {str(not continues).lower()}."
        raise unsupported("add_generation_prompt", why)
    return continues


def ignored_parameters(body: ChatCompletionRequest, request: ChatRequest) -> Iterable[str]:
    yield from ignored(body)
    if body.parallel_tool_calls is not None and not request.tools:
        yield "parallel_tool_calls"
