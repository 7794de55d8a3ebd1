"""From messages to prompt tokens, by the chat template that the model brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta

from worker.chat.control_tokens import ChatVocabulary, ControlTokens, Literals
from worker.chat.jinja import template_environment
from worker.chat.messages import Message, variants
from worker.protocol import InvalidRequest

# For models whose GGUF brings no template: ChatML, the most widely used one.
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
# What the server itself hands to a template; clients may set everything else.
RESERVED = frozenset(
    {
        "self",
        "messages",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "bos_token",
        "eos_token",
        "add_generation_prompt",
        "raise_exception",
        "strftime_now",
    }
)
# Whatever a template's author may have overlooked, the client hears of it; it is no failure of the server.
_REFUSALS = (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation; `text` has placeholders for what looked like a control token."""

    text: str
    tokens: list[int]


class ChatTemplate:
    """Renders by the model's own template, in a sandbox."""

    def __init__(self, source: str | None, vocabulary: ChatVocabulary) -> None:
        self.source = source or CHATML
        self._vocabulary = vocabulary
        environment = template_environment()
        self._template = environment.from_string(self.source)
        self._control = ControlTokens.of(vocabulary, self.source)
        # The variables that the template knows, so that it can be told what has no effect.
        self.variables = meta.find_undeclared_variables(environment.parse(self.source))
        self.knows_tools = "tools" in self.variables

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> Prompt:
        """The prompt, in which nothing that a client wrote is a control token.

        Raises InvalidRequest with the template's own words if it refuses every form of the conversation.
        """
        literals = Literals()
        hidden: list[Message] = [self._control.hide(message, literals) for message in messages]
        variables = self._control.hide({**template_kwargs, "tools": list(tools) if tools else None}, literals)
        text = self._render(hidden, variables)
        tokens = self._with_bos(self._control.tokenize(text, literals, self._vocabulary.tokenize))
        return Prompt(text, tokens)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        refusal: Exception | None = None
        incomplete: str | None = None
        for variant in variants(messages, knows_tools=self.knows_tools):
            try:
                text = self._template.render(
                    messages=variant,
                    bos_token=self._vocabulary.bos_text,
                    eos_token=self._vocabulary.eos_text,
                    add_generation_prompt=True,
                    **variables,
                )
            except _REFUSALS as error:
                refusal = refusal or error
                continue
            # Some templates leave out what they do not know, such as a system message, without a word.
            asked = (message["content"] for message in variant if message["role"] in ("system", "user"))
            if all(content.strip() in text for content in asked):
                return text
            incomplete = incomplete or text
        if incomplete is not None:
            return incomplete
        raise InvalidRequest(
            f"The model's chat template refused these messages: {refusal}", "messages", "chat_template_error"
        ) from refusal

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]
