"""Messages as they come in: every parameter is honoured, reported as ignored, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.anthropic.messages.blocks import InputMessage, Text, template_messages, text_of
from gateway.anthropic.messages.tools import CLIENT_TOOLS_ONLY, AnyTool, ToolChoice, ignored_of, tool_use
from gateway.conversation import said
from gateway.errors import missing, unsupported
from gateway.json_body import StrictBody
from gateway.marks import Hint, Refused, hints, refuse_unsupported
from gateway.sampling import MAX_INT32, MAX_STOP_STRINGS, SamplerFields, sampling_params
from gateway.tools import MAX_TOOLS
from worker.protocol import ChatRequest, SamplingParams

NO_SERVER_TOOLS = f"this server runs no tools. {CLIENT_TOOLS_ONLY}"
CLEARED_THINKING = "clear_thinking_"  # whether earlier thinking is shown is up to the template in any case

JSONObject = dict[str, Any]


class Metadata(StrictBody):
    user_id: str | None = None


class Thinking(StrictBody):
    """`budget_tokens` is a hint: a model thinks as long as it was taught to."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int | None, Hint()] = Field(default=None, ge=1, le=MAX_INT32)
    display: Literal["summarized", "omitted"] | None = None


class JSONFormat(StrictBody):
    type: Literal["json_schema"]
    schema_: JSONObject = Field(alias="schema")


class OutputConfig(StrictBody):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JSONFormat | None = None


class ContextEdit(StrictBody):
    type: str


class ContextManagement(StrictBody):
    edits: list[ContextEdit] | None = None


class ConversationFields(StrictBody):
    """What a prompt is made of."""

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: Text | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: Annotated[JSONObject | None, Hint()] = None
    speed: Annotated[Literal["standard", "fast"] | None, Hint()] = None
    mcp_servers: Annotated[Any, Refused(NO_SERVER_TOOLS, unless=[])] = None
    container: Annotated[Any, Refused(NO_SERVER_TOOLS)] = None


class CountTokensRequest(ConversationFields):
    """All that a message may have but how it is sampled."""


class MessagesRequest(ConversationFields, SamplerFields):
    """All parameters of Anthropic's reference, and llama.cpp's own."""

    max_tokens: int = Field(ge=1, le=MAX_INT32)
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    chat_template_kwargs: JSONObject | None = None
    metadata: Annotated[Metadata | None, Hint()] = None
    service_tier: Annotated[Literal["auto", "standard_only"] | None, Hint()] = None
    inference_geo: Annotated[str | None, Hint()] = None
    diagnostics: Annotated[JSONObject | None, Hint()] = None

    @property
    def hides_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.display == "omitted"


def message_request(body: MessagesRequest, request_id: str) -> ChatRequest:
    """Raises APIError for what cannot be honoured."""
    sampling = sampling_params(body, stop=body.stop_sequences, max_tokens=body.max_tokens, logprobs=None)
    return _chat_request(
        body, request_id, sampling, stream=bool(body.stream), template_kwargs=body.chat_template_kwargs or {}
    )


def count_request(body: CountTokensRequest, request_id: str) -> ChatRequest:
    """The same of what is only counted."""
    return _chat_request(body, request_id, SamplingParams(), stream=False, count_only=True)


def names(body: ConversationFields) -> Mapping[str, str]:
    """What the worker calls as OpenAI's chats do."""
    effort = body.output_config and body.output_config.effort
    return {
        "response_format": "output_config.format",
        "continue_final_message": f"messages[{len(body.messages) - 1}]",
        "reasoning_effort": "output_config.effort" if effort else "thinking",
    }


def _chat_request(
    body: ConversationFields, request_id: str, sampling: SamplingParams, **options: Any
) -> ChatRequest:
    refuse_unsupported(body)
    _refuse_edits(body.context_management)
    use = tool_use(body.tools or (), body.tool_choice)
    system = text_of(body.system or "")
    return ChatRequest(
        request_id,
        body.model,
        [*([said("system", system)] if system else ()), *template_messages(body.messages)],
        sampling,
        tools=use.tools,
        tool_choice=use.choice,
        parallel_tool_calls=use.parallel,
        response_format=_format(body.output_config),
        reasoning_effort=_effort(body),
        continues=body.messages[-1].role == "assistant",
        **options,
    )


def _refuse_edits(management: ContextManagement | None) -> None:
    for i, edit in enumerate((management and management.edits) or ()):
        if not edit.type.startswith(CLEARED_THINKING):
            why = f"nothing is left out of the messages here, as '{edit.type}' asks. Shorten them instead."
            raise unsupported(f"context_management.edits[{i}]", why)


def _format(config: OutputConfig | None) -> Mapping[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"schema": config.format.schema_}}


def _effort(body: ConversationFields) -> str | None:
    """How much to think, in OpenAI's words; None is as the model likes."""
    effort = body.output_config.effort if body.output_config else None
    match body.thinking:
        case Thinking(type="disabled"):
            return "none"
        case Thinking(type="enabled", budget_tokens=None):
            raise missing("thinking.budget_tokens")
        case Thinking(type="enabled"):
            return effort or "medium"
        case _:
            return effort


def ignored_parameters(body: ConversationFields) -> Iterable[str]:
    yield from hints(body)
    yield from sorted(body.model_extra or {})
    if body.thinking:
        yield from (
            f"thinking.{name}" for name in (*hints(body.thinking), *sorted(body.thinking.model_extra or {}))
        )
    if body.output_config:
        yield from (f"output_config.{name}" for name in sorted(body.output_config.model_extra or {}))
    if body.context_management and body.context_management.edits:
        yield "context_management"
    yield from ignored_of(body.tools or ())
