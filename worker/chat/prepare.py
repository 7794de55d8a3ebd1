"""From a conversation to what the engine needs: the prompt, and a constraint if the answer is held to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.chat import lark
from worker.chat.constraint import Constraint, ConstraintError, Constraints
from worker.chat.formats.record import Format
from worker.chat.messages import Message, with_instructions
from worker.chat.options import Chat, ResponseFormat, ToolUse
from worker.chat.reader import AnswerReader
from worker.chat.schema.document import SchemaError
from worker.chat.schema.enforceable import enforceable, json_rule
from worker.chat.template import CONTINUE, RESERVED, ChatTemplate, Prompt
from worker.chat.tools.offer import (
    call_rules,
    check_strict,
    definition,
    free_rules,
    instructions,
)
from worker.protocol import InvalidRequest


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """One chat as the engine takes it; `ignored` names the options that have no effect on this model."""

    prompt: Prompt
    constraint: Constraint | None
    tool_use: ToolUse | None
    ignored: tuple[str, ...]

    def reader(self, index: int) -> AnswerReader:
        return AnswerReader(index, self.prompt.form, self.tool_use, self.prompt.text)


def prepare(chat: Chat, template: ChatTemplate, constraints: Constraints) -> PreparedChat:
    """Raises InvalidRequest where the template or a schema does not allow what is asked."""
    use = chat.tool_use
    told = [] if use is None or template.knows_tools else [instructions(use.tools)]
    if chat.response_format is not None:
        told.append(_format_instructions(chat.response_format))
    messages = [_without_reasoning(dict(message), template.form) for message in chat.messages]
    begun = _begun(messages) if chat.continues else None
    variables, ignored = _template_variables(chat, template)
    tools = [definition(tool) for tool in use.tools] if use and template.knows_tools else None
    renderer = template.for_tools if tools else template
    prompt = renderer.prompt(with_instructions(messages, told), tools, **variables)
    constraint = _constraint(chat, prompt, template.knows_tools, constraints)
    if begun is not None:
        if constraint is not None:
            raise _not_continued("an answer that is held to a format or to a tool")
        prompt = renderer.continued(prompt, begun)
    return PreparedChat(
        prompt=prompt,
        constraint=constraint,
        tool_use=use,
        ignored=ignored,
    )


def _begun(messages: list[Message]) -> Message:
    """The last message, which is taken away."""
    if not messages or messages[-1]["role"] != "assistant":
        raise _not_continued("a conversation that does not end with what the assistant has begun to say")
    if messages[-1].get("tool_calls"):
        raise _not_continued("a message with calls of tools")
    return messages.pop()


def _not_continued(what: str) -> InvalidRequest:
    return InvalidRequest(f"Only text can be continued, not {what}.", CONTINUE, "invalid_value")


def _without_reasoning(message: Message, form: Format) -> Message:
    """Earlier thinking apart from the answer, which templates show again or leave out as they like."""
    if message["role"] != "assistant" or message.get("reasoning_content"):
        return message
    thought, answer = form.without_thinking(message["content"])
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


def _constraint(chat: Chat, prompt: Prompt, knows_tools: bool, constraints: Constraints) -> Constraint | None:
    """What the answer is held to; None where it may be anything."""
    use, form, calls = chat.tool_use, chat.response_format, prompt.form.calls
    rules = []
    allowed = []
    if use is not None:
        # A model that was never taught to call tools does not know when to stop calling them.
        use = use if knows_tools else replace(use, parallel=False)
        if use.required or form is not None:
            rules += call_rules(use, calls, constraints)
        elif any(tool.strict for tool in use.tools) and calls.begin:
            rules += free_rules(use, calls, constraints)
        else:
            check_strict(use)
        allowed += ["calls"] if rules else []
    if form is not None and not (use and use.required):
        tags = prompt.form.answer
        value = f"VALUE: {_text(form)}" if form.schema is None else f"value: {_json(form.schema)}"
        name = value.partition(":")[0]
        rules += [f"answer: {constraints.written(tags.begin)} {name} {constraints.written(tags.end)}", value]
        allowed.append("answer")
    if not allowed:
        return None
    rules = [f"start: thinking {lark.either(allowed)}", *_thinking(prompt, constraints), *rules]
    try:
        return constraints.compile("\n".join(rules))
    except ConstraintError as error:
        param = "tools" if form is None else "response_format"
        raise InvalidRequest(f"No answer can be held to this: {error}.", param, "invalid_value") from error


def _thinking(prompt: Prompt, constraints: Constraints) -> list[str]:
    """The rule `thinking`, of what may or has to come before the answer."""
    form, written = prompt.form, constraints.written
    opened = form.opened_by(prompt.text)
    tags = opened or form.thinks_with
    if tags is None:
        return ["thinking:"]
    behind = written(form.after_thinking) or r"/\n{1,2}/?"
    thought = f"thought {behind}" if opened else f"({written(tags.begin)} thought {behind})?"
    return [f"thinking: {thought}", constraints.until("thought", tags.end)]


def _json(schema: Mapping[str, Any]) -> str:
    try:
        return json_rule(enforceable(schema))
    except SchemaError as error:
        message = f"The answer's JSON Schema cannot be enforced: {error}."
        raise InvalidRequest(message, "response_format", "invalid_json_schema") from error


def _text(form: ResponseFormat) -> str:
    if form.regex is None:
        return lark.either(map(lark.literal, form.choices))
    try:
        return lark.regex(form.regex)
    except ValueError as error:
        message = f"The answer's regular expression cannot be enforced: {error}."
        raise InvalidRequest(message, "response_format", "invalid_value") from error
