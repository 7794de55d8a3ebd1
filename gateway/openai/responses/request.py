"""Responses as they come in: every parameter is honoured, reported as ignored, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gateway.conversation import said
from gateway.errors import invalid, missing, unsupported
from gateway.json_body import PlainOr, StrictBody
from gateway.marks import Hint, Refused, hints, refuse_unsupported
from gateway.openai.formats import (
    GuidedFields,
    JSONFormat,
    JSONSchema,
    JSONSchemaFormat,
    TextFormat,
    only_format,
)
from gateway.openai.parts import TextPart
from gateway.openai.responses.items import Item, MessageItem, qualified, template_messages
from gateway.openai.sampling import (
    AnswerFields,
    HostedFields,
    JSONObject,
    ReasoningEffort,
    TopLogprobs,
    ignored,
)
from gateway.sampling import TokenLimit, sampling_params
from gateway.tools import MAX_TOOLS, Choice, FunctionDefinition, Name, ToolUse, named, offered
from worker.protocol import ChatRequest

# What the worker calls as chats do.
NAMES: Mapping[str, str] = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
FUNCTIONS_ONLY = "Send tools of type 'function', which the client runs."
ELSEWHERE = "in the Responses API it is"
LOGPROBS = "message.output_text.logprobs"

MetadataKey = Annotated[str, Field(max_length=64)]
Metadata = Annotated[dict[MetadataKey, Annotated[str, Field(max_length=512)]], Field(max_length=16)]
SummaryKind = Literal["auto", "concise", "detailed"]


class SchemaFormat(JSONSchemaFormat):
    """A schema with what chats have one level deeper."""

    type: Literal["json_schema"]
    schema_: JSONSchema = Field(alias="schema")


class TextOptions(StrictBody):
    format: Annotated[TextFormat | JSONFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, Hint()] = None


class ReasoningOptions(StrictBody):
    """`generate_summary` is what `summary` was called before."""

    effort: ReasoningEffort | None = None
    summary: SummaryKind | None = None
    generate_summary: SummaryKind | None = None
    context: Annotated[Literal["auto", "current_turn", "all_turns"] | None, Hint()] = None
    mode: Annotated[str | None, Hint()] = None


class FunctionTool(FunctionDefinition):
    type: Literal["function"]


class NamespaceTool(StrictBody):
    """Functions under a common name: to the model, each is `NAMESPACE.FUNCTION`."""

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)]

    def functions(self) -> Iterable[FunctionDefinition]:
        for tool in self.tools:
            described = "\n".join(text for text in (self.description, tool.description) if text)
            yield tool.model_copy(
                update={"name": qualified(tool.name, self.name), "description": described or None}
            )


class OtherTool(StrictBody):
    """A tool that runs on OpenAI's servers, or takes plain text: understood, and refused by name."""

    type: str


def _tool_kind(value: Any) -> str:
    kind = value.get("type", "function") if isinstance(value, dict) else "function"
    return f"{kind}-tool" if kind in ("function", "namespace") else "other-tool"


Tool = Annotated[
    Annotated[FunctionTool, Tag("function-tool")]
    | Annotated[NamespaceTool, Tag("namespace-tool")]
    | Annotated[OtherTool, Tag("other-tool")],
    Discriminator(_tool_kind),
]


class AllowedTools(StrictBody):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[JSONObject], Field(min_length=1)]


class NamedTool(StrictBody):
    """Of a type other than `function` it is refused."""

    type: str
    name: str | None = None


def _choice_kind(value: Any) -> str:
    allowed = isinstance(value, dict) and value.get("type") == "allowed_tools"
    return "allowed-choice" if allowed else "named-choice"


ToolChoice = Annotated[
    Annotated[AllowedTools, Tag("allowed-choice")] | Annotated[NamedTool, Tag("named-choice")],
    Discriminator(_choice_kind),
]


class OtherAPIFields(StrictBody):
    """What chats call otherwise, and what only OpenAI's servers have."""

    messages: Annotated[Any, Refused(f"{ELSEWHERE} 'input'.")] = None
    response_format: Annotated[Any, Refused(f"{ELSEWHERE} 'text.format'.")] = None
    max_tokens: Annotated[Any, Refused(f"{ELSEWHERE} 'max_output_tokens'.")] = None
    max_completion_tokens: Annotated[Any, Refused(f"{ELSEWHERE} 'max_output_tokens'.")] = None
    reasoning_effort: Annotated[Any, Refused(f"{ELSEWHERE} 'reasoning.effort'.")] = None
    logprobs: Annotated[Any, Refused(f"{ELSEWHERE} 'include' with '{LOGPROBS}'.", unless=False)] = None
    functions: Annotated[Any, Refused(f"{ELSEWHERE} 'tools'.")] = None
    function_call: Annotated[Any, Refused(f"{ELSEWHERE} 'tool_choice'.")] = None
    n: Annotated[Any, Refused("a response is one answer. Send it as many times.", unless=1)] = None
    background: Annotated[
        bool | None, Refused("nothing runs in the background here. Stream it instead.", unless=False)
    ] = None
    conversation: Annotated[
        Any, Refused("this server keeps responses, not conversations. Send 'previous_response_id'.")
    ] = None
    prompt: Annotated[
        Any, Refused("this server keeps no prompts. Send their text as 'instructions' or 'input'.")
    ] = None
    context_management: Annotated[
        Any, Refused("this server compacts nothing. Shorten the 'input' instead.", unless=[])
    ] = None
    moderation: Annotated[Any, Refused("this server does not moderate.")] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Refused("nothing is left out of the 'input' here. Shorten it instead.", unless="disabled"),
    ] = None


class ResponseRequest(AnswerFields, HostedFields, GuidedFields, OtherAPIFields):
    """All parameters of OpenAI's reference, llama.cpp's own and those of other servers."""

    input: PlainOr[str, list[Item]]
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    metadata: Metadata | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: PlainOr[Literal["none", "auto", "required"], ToolChoice] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: TopLogprobs | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    chat_template_kwargs: JSONObject | None = None
    max_tool_calls: Annotated[int | None, Hint()] = None
    background_options: Annotated[JSONObject | None, Hint()] = None
    access_programs: Annotated[JSONObject | None, Hint()] = None
    image: Annotated[JSONObject | None, Hint()] = None

    @property
    def summarized(self) -> bool:
        """Whether thinking is wanted as a summary."""
        options = self.reasoning
        return bool(options and (options.summary or options.generate_summary))

    @property
    def num_logprobs(self) -> int | None:
        wanted = LOGPROBS in (self.include or ()) or self.top_logprobs
        return (self.top_logprobs or 0) if wanted else None


def chat_request(
    body: ResponseRequest, request_id: str, own: Sequence[Item], earlier: Sequence[Item]
) -> ChatRequest:
    """Of `earlier` items and the request's own. Raises APIError for what cannot be honoured."""
    refuse_unsupported(body)
    use = tool_use(body)
    instructions = [said("system", body.instructions)] if body.instructions else []
    return ChatRequest(
        request_id=request_id,
        model=body.model,
        messages=[*instructions, *template_messages([*earlier, *own], num_earlier=len(earlier))],
        sampling=sampling_params(
            body, stop=body.stop, max_tokens=body.max_output_tokens, logprobs=body.num_logprobs
        ),
        stream=bool(body.stream),
        tools=use.tools,
        tool_choice=use.choice,
        parallel_tool_calls=use.parallel,
        response_format=_text_format(body),
        reasoning_effort=(body.reasoning.effort if body.reasoning else None) or None,
        template_kwargs=body.chat_template_kwargs or {},
    )


def input_items(body: ResponseRequest) -> Sequence[Item]:
    """The request's own, of which a plain text is one."""
    if isinstance(body.input, str):
        return [MessageItem(role="user", content=[TextPart(type="input_text", text=body.input)])]
    return body.input


def tool_use(body: ResponseRequest) -> ToolUse:
    definitions = [
        function for i, tool in enumerate(body.tools or []) for function in _functions(tool, f"tools[{i}]")
    ]
    if len(definitions) > MAX_TOOLS:
        raise invalid(f"The tools have {len(definitions)} functions. Offer at most {MAX_TOOLS}.", "tools")
    return offered(definitions, _choice(body.tool_choice), parallel=body.parallel_tool_calls is not False)


def _functions(tool: Tool, where: str) -> Iterable[FunctionDefinition]:
    match tool:
        case OtherTool():
            raise unsupported(where, f"this server has no tool '{tool.type}'. {FUNCTIONS_ONLY}")
        case NamespaceTool():
            return tool.functions()
        case _:
            return [tool]


def _choice(choice: Literal["none", "auto", "required"] | ToolChoice | None) -> Choice:
    match choice:
        case AllowedTools():
            return Choice(choice.mode, [_name(tool, "tool_choice.tools") for tool in choice.tools])
        case NamedTool():
            return named(_name(choice.known_fields(), "tool_choice"))
        case _:
            return Choice(choice or "auto")


def _name(tool: Mapping[str, Any], param: str) -> str:
    """Of a function that is chosen."""
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
        case {"type": "function"}:
            raise missing(f"{param}.name")
        case _:
            raise unsupported(param, f"this server has no tool '{tool.get('type')}'. {FUNCTIONS_ONLY}")


def _text_format(body: ResponseRequest) -> Mapping[str, Any] | None:
    match body.text and body.text.format:
        case JSONFormat() as wanted:
            form: Mapping[str, Any] | None = wanted.known_fields()
        case SchemaFormat() as wanted:
            fields = set(JSONSchemaFormat.model_fields)
            schema = wanted.model_dump(include=fields, by_alias=True, exclude_none=True)
            form = {"type": "json_schema", "json_schema": schema}
        case _:
            form = None
    return only_format(body, "text.format", form)


def ignored_parameters(body: ResponseRequest, request: ChatRequest, *, stored: bool) -> Iterable[str]:
    yield from ignored(body)
    if body.store and not stored:
        yield "store"
    if body.parallel_tool_calls is not None and not request.tools:
        yield "parallel_tool_calls"
    for name, options in (("text", body.text), ("reasoning", body.reasoning)):
        if options:
            yield from (f"{name}.{hint}" for hint in (*hints(options), *sorted(options.model_extra or {})))
    yield from (f"include.{wanted}" for wanted in body.include or () if wanted != LOGPROBS)
