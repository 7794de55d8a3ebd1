"""From OpenAI's requests to the worker's: every parameter is honoured, reported as ignored, or refused.

Pure functions; the shapes are those of OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.errors import invalid, unsupported
from gateway.openai import requests
from gateway.openai.chat import schemas
from worker.protocol import (
    RECOMMENDABLE,
    ChatRequest,
    CompletionRequest,
    ResponseFormat,
    SamplingParams,
    Tool,
    ToolUse,
)

T = TypeVar("T")

# Parameters that would change the answer and that no model behind this server can honour.
_REFUSED = {
    "audio": "these models answer in text only.",
    "web_search_options": "this server has no access to the web.",
    "moderation": "this server does not moderate.",
}
# Parameters that help elsewhere and change nothing here.
_HINTS = (
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    "verbosity",
    "prediction",
)
_FUNCTIONS_ONLY = "these models call functions, not custom tools. Send a tool of type 'function'."
_NO_PROMPT = "<|endoftext|>"  # what the legacy API continues unless told
_COMPLETION_TOKENS = 16  # how many tokens the legacy API writes unless told


@dataclass(frozen=True, slots=True)
class Translated:
    """The worker's request, and the parameters that had no effect on it."""

    request: ChatRequest
    ignored: tuple[str, ...]


def chat_request(body: requests.ChatCompletionRequest, request_id: str, *, allow_grammar: bool) -> Translated:
    """Raises APIError for what cannot be honoured."""
    refuse_unsupported(body)
    _refuse_grammar(body, allow_grammar)
    use = tool_use(body)
    ignored = [*_ignored(body)]
    if body.parallel_tool_calls is not None and use is None:
        ignored.append("parallel_tool_calls")
    request = ChatRequest(
        request_id=request_id,
        model=body.model,
        messages=[_message(message, f"messages[{i}]") for i, message in enumerate(body.messages)],
        sampling=_sampling(
            body,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        n=body.n or 1,
        stream=bool(body.stream),
        tool_use=use,
        response_format=response_format(body.response_format),
        reasoning_effort=body.reasoning_effort,
        template_kwargs=body.chat_template_kwargs or {},
        grammar=body.grammar,
    )
    if request.grammar and (request.response_format or (use and use.required)):
        raise invalid("'grammar' cannot be combined with 'response_format' or a required tool.", "grammar")
    return Translated(request, tuple(ignored))


def completion_request(
    body: requests.TextCompletionRequest, request_id: str, *, allow_grammar: bool
) -> CompletionRequest:
    """The legacy API's request. Raises APIError for what cannot be honoured."""
    _refuse_grammar(body, allow_grammar)
    n = body.n or 1
    if body.suffix:
        raise unsupported("suffix", "text can only be continued here, not filled in.")
    if body.best_of not in (None, n):
        raise unsupported("best_of", "every choice that is made is returned. Leave it out or set it to 'n'.")
    if body.max_tokens == 0:
        why = "0 asks for no text at all, and this server always writes some. Send 1 or more."
        raise unsupported("max_tokens", why)
    if body.echo and body.logprobs is not None:
        raise unsupported("echo", "it cannot be combined with 'logprobs'.")
    prompts = _prompts(_NO_PROMPT if body.prompt is None else body.prompt)
    if len(prompts) * n > requests.MAX_CHOICES:
        raise invalid(f"All prompts together may have at most {requests.MAX_CHOICES} choices.", "n")
    return CompletionRequest(
        request_id=request_id,
        model=body.model,
        prompts=prompts,
        sampling=_sampling(body, max_tokens=body.max_tokens or _COMPLETION_TOKENS, logprobs=body.logprobs),
        n=n,
        echo=bool(body.echo),
        stream=bool(body.stream),
        grammar=body.grammar,
    )


def generate_request(message: str, model: str, request_id: str) -> ChatRequest:
    """The first deployment called create_chat_completion with the library's own sampling defaults."""
    sampling = SamplingParams(temperature=0.2, top_p=0.95, top_k=40, min_p=0.05)
    return ChatRequest(request_id, model, [{"role": "user", "content": message}], sampling, stream=False)


def refuse_unsupported(body: requests.ChatCompletionRequest) -> None:
    for name, why in _REFUSED.items():
        if getattr(body, name) is not None:
            raise unsupported(name, why)
    if body.store:
        raise unsupported("store", "nothing is stored here. Leave it out or send false.")
    if body.modalities not in (None, ["text"]):
        raise unsupported("modalities", 'these models answer in text only. Leave it out or send ["text"].')


def _refuse_grammar(body: requests.SamplingFields, allowed: bool) -> None:
    """llama.cpp's parser trusts the author of a grammar: some crash it, some keep it busy for ever."""
    if body.grammar is not None and not allowed:
        raise unsupported(
            "grammar",
            "this server takes no grammars from clients. Use the 'response_format' of chat completions, or "
            "start the server with ALLOW_GRAMMAR=true.",
        )


def completion_ignored(body: requests.TextCompletionRequest) -> tuple[str, ...]:
    return tuple(_ignored(body))


def _ignored(body: requests.SamplingFields) -> Iterable[str]:
    """Hints that were given, and fields that this API does not have."""
    given = body.model_fields_set
    yield from (name for name in _HINTS if name in given and getattr(body, name) is not None)
    if body.stream_options and body.stream_options.include_obfuscation:
        yield "stream_options.include_obfuscation"
    yield from sorted(body.model_extra or {})


def _sampling(
    body: requests.SamplingFields, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    defaults = SamplingParams()
    return SamplingParams(
        temperature=_or(body.temperature, defaults.temperature),
        top_p=_or(body.top_p, defaults.top_p),
        top_k=_or(body.top_k, defaults.top_k),
        min_p=_or(body.min_p, defaults.min_p),
        typical_p=_or(body.typical_p, defaults.typical_p),
        repeat_penalty=_or(body.repeat_penalty, defaults.repeat_penalty),
        presence_penalty=_or(body.presence_penalty, defaults.presence_penalty),
        frequency_penalty=_or(body.frequency_penalty, defaults.frequency_penalty),
        mirostat_mode=_or(body.mirostat_mode, defaults.mirostat_mode),
        mirostat_tau=_or(body.mirostat_tau, defaults.mirostat_tau),
        mirostat_eta=_or(body.mirostat_eta, defaults.mirostat_eta),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        seed=body.seed,
        stop=_stop(body.stop),
        max_tokens=max_tokens,
        logprobs=logprobs,
        left_to_model=frozenset(name for name in RECOMMENDABLE if getattr(body, name) is None),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(string for string in strings if string)


def _prompts(prompt: requests.Prompts) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(part if isinstance(part, str) else tuple(part) for part in prompt)


def tool_use(body: requests.ChatCompletionRequest) -> ToolUse | None:
    """The tools that may be called; None where none may. Deprecated functions are tools as well."""
    definitions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])]
    choice: Any = body.tool_choice
    param, choice_param = "tools", "tool_choice"
    if body.functions or body.function_call is not None:
        if body.tools or choice is not None:
            raise invalid("'functions' and 'function_call' are deprecated and exclude 'tools'.", "functions")
        definitions, choice = body.functions or [], body.function_call
        param, choice_param = "functions", "function_call"
    tools = {definition.name: _tool(definition) for definition in definitions}
    if len(tools) < len(definitions):
        raise invalid(f"Every name in '{param}' may occur only once.", param)
    if choice not in (None, "none", "auto") and not tools:
        raise invalid(f"'{choice_param}' is only allowed when '{param}' are given.", choice_param)
    if not tools or choice == "none":
        return None
    parallel = body.parallel_tool_calls is not False and not body.functions
    match choice:
        case None | "auto" | "required":
            return ToolUse(tuple(tools.values()), choice == "required", parallel)
        case schemas.AllowedToolsChoice():
            allowed = choice.allowed_tools
            names = [tool.function.name for tool in allowed.tools]
            return ToolUse(_chosen(tools, names, choice_param), allowed.mode == "required", parallel)
        case schemas.CustomTool():
            raise unsupported(choice_param, _FUNCTIONS_ONLY)
        case schemas.NamedTool():
            return ToolUse(_chosen(tools, [choice.function.name], choice_param), True, False)
        case _:
            return ToolUse(_chosen(tools, [choice.name], choice_param), True, False)


def _function(tool: schemas.Tool, where: str) -> schemas.FunctionDefinition:
    if isinstance(tool, schemas.CustomTool):
        raise unsupported(where, _FUNCTIONS_ONLY)
    return tool.function


def _tool(definition: schemas.FunctionDefinition) -> Tool:
    return Tool(definition.name, definition.description, definition.parameters, bool(definition.strict))


def _chosen(tools: Mapping[str, Tool], names: Sequence[str], param: str) -> tuple[Tool, ...]:
    for name in names:
        if name not in tools:
            raise invalid(
                f"'{param}' names '{name}', which is not among the tools: {', '.join(tools)}.", param
            )
    return tuple(tools[name] for name in dict.fromkeys(names))


def response_format(form: schemas.PlainFormat | schemas.SchemaFormat | None) -> ResponseFormat | None:
    if form is None or form.type == "text":
        return None
    if isinstance(form, schemas.PlainFormat):
        return ResponseFormat({"type": "object"})
    wanted = form.json_schema
    return ResponseFormat(_or(wanted.schema_, {"type": "object"}), wanted.name, wanted.description)


def _message(message: schemas.Message, where: str) -> dict[str, Any]:
    """The chat template's own form: a role that templates know, and content as one text."""
    content = _text(message.content, f"{where}.content")
    match message:
        case schemas.AssistantMessage():
            return _assistant(message, content, where)
        case schemas.ToolMessage():
            return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
        case schemas.FunctionMessage():
            return {"role": "tool", "content": content, "name": message.name, "tool_call_id": message.name}
        case schemas.SystemMessage():
            return {"role": "system", "content": content, **_name(message.name)}
        case _:
            return {"role": "user", "content": content, **_name(message.name)}


def _assistant(message: schemas.AssistantMessage, content: str, where: str) -> dict[str, Any]:
    translated = {"role": "assistant", "content": content or message.refusal or "", **_name(message.name)}
    if message.reasoning_content:
        translated["reasoning_content"] = message.reasoning_content
    calls = []
    for i, call in enumerate(message.tool_calls or []):
        if isinstance(call, schemas.CustomTool):
            raise unsupported(f"{where}.tool_calls[{i}]", _FUNCTIONS_ONLY)
        calls.append(_call(call.id, call.function))
    if message.function_call:
        calls.append(_call(message.function_call.name, message.function_call))
    return {**translated, "tool_calls": calls} if calls else translated


def _call(call_id: str, function: schemas.FunctionCall) -> dict[str, Any]:
    call = {"name": function.name, "arguments": function.arguments}
    return {"id": call_id, "type": "function", "function": call}


def _name(name: str | None) -> dict[str, str]:
    return {"name": name} if name else {}


def _text(content: str | Sequence[schemas.Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part_text(part: schemas.Part, where: str) -> str:
    match part:
        case schemas.TextPart():
            return part.text
        case schemas.RefusalPart():
            return part.refusal
        case _:
            raise unsupported(where, f"this model takes text only, not '{part.type}'.")
