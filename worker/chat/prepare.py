"""From a chat request to what the engine needs, and from what it writes to events."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.chat import reasoning
from worker.chat.grammar.gbnf import Grammar, either
from worker.chat.grammar.json_schema import SchemaGrammar
from worker.chat.grammar.schema_algebra import SchemaError
from worker.chat.logprobs import ContentLogprobs
from worker.chat.messages import Message, with_instructions, with_system_prompt
from worker.chat.template import RESERVED, ChatTemplate, Prompt
from worker.chat.tools.offer import call_format, calls_rule, check_strict, definition, instructions
from worker.chat.tools.parser import CallArguments, CallEnded, CallStarted, Content, Part, ToolCallParser
from worker.protocol import (
    ChatRequest,
    Event,
    FinishReason,
    InvalidRequest,
    ReasoningDelta,
    ResponseFormat,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolUse,
)

# Thinking comes before anything that a grammar holds the answer to.
_THINKING = r'([^<] | "<" [^/] | "</" [^t])* "</think>" [\n]{0,2}'


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """One chat request as the engine takes it: the prompt, and a grammar where the answer is held to one."""

    prompt: Prompt
    grammar: str | None
    thinks_until: str | None
    tool_use: ToolUse | None
    ignored: tuple[str, ...]

    def reader(self, index: int) -> AnswerReader:
        return AnswerReader(index, self.thinks_until, self.tool_use)


def prepare(request: ChatRequest, template: ChatTemplate, system_prompt: str) -> PreparedChat:
    """Raises InvalidRequest where the template or a schema does not allow what is asked."""
    use = request.tool_use
    told = [] if use is None or template.knows_tools else [instructions(use.tools)]
    if request.response_format is not None:
        told.append(_format_instructions(request.response_format))
    messages = [
        _without_reasoning(message) for message in with_system_prompt(request.messages, system_prompt)
    ]
    variables, ignored = _template_variables(request, template)
    tools = [definition(tool) for tool in use.tools] if use and template.knows_tools else None
    prompt = template.prompt(with_instructions(messages, told), tools, **variables)
    return PreparedChat(
        prompt=prompt,
        grammar=_grammar(request, template, prompt.text),
        thinks_until=reasoning.opened_tag(prompt.text),
        tool_use=use,
        ignored=ignored,
    )


def _without_reasoning(message: Message) -> Message:
    """Earlier thinking apart from the answer, which templates show again or leave out as they like."""
    if message["role"] != "assistant" or message.get("reasoning_content"):
        return message
    thought, answer = reasoning.without_reasoning(message["content"])
    return {**message, "content": answer, "reasoning_content": thought} if thought else message


def _template_variables(
    request: ChatRequest, template: ChatTemplate
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The client's variables for the template, and the parameters that it has no use for."""
    if taken := sorted(RESERVED & set(request.template_kwargs)):
        message = f"'{taken[0]}' is set by the server and cannot be one of the 'chat_template_kwargs'."
        raise InvalidRequest(message, "chat_template_kwargs", "invalid_value")
    ignored = [
        f"chat_template_kwargs.{name}" for name in request.template_kwargs if name not in template.variables
    ]
    variables: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        effort = {
            "reasoning_effort": request.reasoning_effort,
            "enable_thinking": request.reasoning_effort != "none",
        }
        variables = {name: value for name, value in effort.items() if name in template.variables}
        ignored += [] if variables else ["reasoning_effort"]
    return {**variables, **request.template_kwargs}, tuple(ignored)


def _format_instructions(form: ResponseFormat) -> str:
    about = f" ({form.description})" if form.description else ""
    if not form.schema.get("properties") and set(form.schema) <= {"type"}:
        return "Answer with one JSON object and nothing else."
    schema = json.dumps(form.schema, ensure_ascii=False)
    return f"Answer with JSON{about} and nothing else. It has to be valid by this JSON Schema:\n{schema}"


def _grammar(request: ChatRequest, template: ChatTemplate, prompt: str) -> str | None:
    """What the answer may be; None where it may be anything."""
    use, form = request.tool_use, request.response_format
    if form is None and not (use and use.required):
        if use is not None:
            check_strict(use)
        return request.grammar
    grammar = Grammar()
    allowed = []
    if use is not None:
        # A model that was never taught to call tools does not know when to stop calling them.
        use = use if template.knows_tools else replace(use, parallel=False)
        form_of_calls = call_format(template.source, knows_tools=template.knows_tools)
        allowed.append(calls_rule(grammar, use, form_of_calls))
    if form is not None and not (use and use.required):
        allowed.append(_schema_rule(grammar, form))
    root = either(allowed)
    if reasoning.opened_tag(prompt):
        root = f"{_THINKING} {root}"
    elif "<think>" in template.source:
        thinking = grammar.add("thinking", f'"<think>" {_THINKING}')
        root = f"{thinking}? {root}"
    return grammar.text(root)


def _schema_rule(grammar: Grammar, form: ResponseFormat) -> str:
    try:
        return SchemaGrammar(grammar, form.schema).root()
    except SchemaError as error:
        message = f"The JSON Schema in 'response_format' cannot be enforced: {error}."
        raise InvalidRequest(message, "response_format", "invalid_json_schema") from error


class AnswerReader:
    """Turns the text of choice `index` into events, as it comes."""

    def __init__(self, index: int, thinks_until: str | None, use: ToolUse | None) -> None:
        self._index = index
        self._reasoning = reasoning.ReasoningParser(thinks_until)
        self._calls = ToolCallParser({tool.name: tool.parameters for tool in use.tools}) if use else None
        self._required = use is not None and use.required
        self._parallel = use is None or use.parallel
        self._logprobs = ContentLogprobs()
        self._num_chars = 0
        self._answer_start: int | None = None  # where the thinking is over
        self._content_end = 0
        self._num_calls = 0
        self._call_is_cut = False
        self.thought = ""
        self.done = False  # whether the rest of what the model would write is not wanted

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """What the text says; once `done`, nothing."""
        self._num_chars += len(text)
        self._logprobs.add(logprobs)
        return list(self._events(self._reasoning.feed(text)))

    def finish(self, reason: FinishReason) -> tuple[list[Event], FinishReason]:
        """The last events, and why the answer ends: `tool_calls` only if no call was cut off."""
        events = list(self._events(self._reasoning.finish()))
        if self._calls is not None:
            events += self._parts(self._calls.finish())
        if self._required:  # only the beginning of a call can be left: its grammar allows nothing else
            events = [event for event in events if not isinstance(event, TextDelta)]
        elif self._content_end == self._num_chars and (rest := self._logprobs.take_rest()):
            events.append(TextDelta(self._index, "", rest))
        called = self._num_calls > 0 and not self._call_is_cut
        return events, "tool_calls" if called and (self.done or reason == "stop") else reason

    def _events(self, parts: Sequence[reasoning.Reasoning | str]) -> Iterator[Event]:
        for part in parts:
            if isinstance(part, reasoning.Reasoning):
                self.thought += part.text
                yield ReasoningDelta(self._index, part.text)
                continue
            start = self._num_chars - len(part)  # of an answer, nothing is held back
            if self._answer_start is None:
                self._answer_start = start
            if self._calls is None:
                yield self._content(part, start)
            else:
                yield from self._parts(self._calls.feed(part))

    def _parts(self, parts: Sequence[Part]) -> Iterator[Event]:
        for part in parts:
            if self.done:
                return
            match part:
                case Content():
                    assert self._answer_start is not None
                    yield self._content(part.text, self._answer_start + part.start)
                case CallStarted():
                    call_id = f"call_{secrets.token_hex(12)}"
                    yield ToolCallDelta(self._index, self._num_calls, id=call_id, name=part.name)
                    self._num_calls += 1
                case CallArguments():
                    yield ToolCallDelta(self._index, self._num_calls - 1, part.text)
                case CallEnded():
                    self._call_is_cut = not part.complete
                    self.done = not self._parallel

    def _content(self, text: str, start: int) -> TextDelta:
        self._content_end = start + len(text)
        return TextDelta(self._index, text, self._logprobs.take(start, self._content_end))
