"""From a conversation to what the engine needs: the prompt, and a grammar where the answer is held to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.chat import reasoning
from worker.chat.grammar.gbnf import Grammar, either
from worker.chat.grammar.json_schema import SchemaGrammar
from worker.chat.grammar.schema_algebra import SchemaError
from worker.chat.messages import Message, with_instructions
from worker.chat.options import Chat, ResponseFormat, ToolUse
from worker.chat.reader import AnswerReader
from worker.chat.template import RESERVED, ChatTemplate, Prompt
from worker.chat.tools.offer import call_format, calls_rule, check_strict, definition, instructions
from worker.protocol import InvalidRequest

# Thinking comes before anything that a grammar holds the answer to.
_THINKING = r'([^<] | "<" [^/] | "</" [^t])* "</think>" [\n]{0,2}'


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """One chat as the engine takes it; `ignored` names the options that have no effect on this model."""

    prompt: Prompt
    grammar: str | None
    thinks_until: str | None
    tool_use: ToolUse | None
    ignored: tuple[str, ...]

    def reader(self, index: int) -> AnswerReader:
        return AnswerReader(index, self.thinks_until, self.tool_use)


def prepare(chat: Chat, template: ChatTemplate) -> PreparedChat:
    """Raises InvalidRequest where the template or a schema does not allow what is asked."""
    use = chat.tool_use
    told = [] if use is None or template.knows_tools else [instructions(use.tools)]
    if chat.response_format is not None:
        told.append(_format_instructions(chat.response_format))
    messages = [_without_reasoning(dict(message)) for message in chat.messages]
    variables, ignored = _template_variables(chat, template)
    tools = [definition(tool) for tool in use.tools] if use and template.knows_tools else None
    prompt = template.prompt(with_instructions(messages, told), tools, **variables)
    return PreparedChat(
        prompt=prompt,
        grammar=_grammar(chat, template, prompt.text),
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


def _template_variables(chat: Chat, template: ChatTemplate) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The client's variables for the template, and the parameters that it has no use for."""
    if taken := sorted(RESERVED & set(chat.template_kwargs)):
        message = f"'{taken[0]}' is set by the server and cannot be one of the 'chat_template_kwargs'."
        raise InvalidRequest(message, "chat_template_kwargs", "invalid_value")
    ignored = [
        f"chat_template_kwargs.{name}" for name in chat.template_kwargs if name not in template.variables
    ]
    variables: Mapping[str, Any] = {}
    if chat.reasoning_effort is not None:
        effort = {
            "reasoning_effort": chat.reasoning_effort,
            "enable_thinking": chat.reasoning_effort != "none",
        }
        variables = {name: value for name, value in effort.items() if name in template.variables}
        ignored += [] if variables else ["reasoning_effort"]
    return {**variables, **chat.template_kwargs}, tuple(ignored)


def _format_instructions(form: ResponseFormat) -> str:
    if form.schema is None:
        return _plain_instructions(form)
    about = f" ({form.description})" if form.description else ""
    if not form.schema.get("properties") and set(form.schema) <= {"type"}:
        return "Answer with one JSON object and nothing else."
    schema = json.dumps(form.schema, ensure_ascii=False)
    return f"Answer with JSON{about} and nothing else. It has to be valid by this JSON Schema:\n{schema}"


def _plain_instructions(form: ResponseFormat) -> str:
    if form.choices:
        return f"Answer with one of these and nothing else: {', '.join(form.choices)}."
    return f"Answer with text that matches this regular expression and nothing else: {form.regex}"


def _grammar(chat: Chat, template: ChatTemplate, prompt: str) -> str | None:
    """What the answer may be; None where it may be anything."""
    use, form = chat.tool_use, chat.response_format
    if form is None and not (use and use.required):
        if use is not None:
            check_strict(use)
        return None
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
    if form.schema is None:
        raise InvalidRequest("'response_format' has to be JSON.", "response_format", "invalid_value")
    try:
        return SchemaGrammar(grammar, form.schema).root()
    except SchemaError as error:
        message = f"The JSON Schema in 'response_format' cannot be enforced: {error}."
        raise InvalidRequest(message, "response_format", "invalid_json_schema") from error
