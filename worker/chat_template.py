"""From messages to prompt tokens, by the chat template that the model brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import llama_cpp
from jinja2 import meta
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from worker.control_tokens import ControlTokens, Literals
from worker.messages import Message, variants
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


class Prompt(list[Message]):
    """A conversation that is rendered already; still a list of messages, as the library's signature has it.

    `text` has placeholders for what looked like a control token.
    """

    def __init__(self, messages: Sequence[Message], text: str, tokens: list[int]) -> None:
        super().__init__(messages)
        self.text, self.tokens = text, tokens


class ChatTemplate:
    """Renders with the library's own Jinja environment."""

    def __init__(self, llama: llama_cpp.Llama) -> None:
        self.source: str = llama.metadata.get("tokenizer.chat_template", CHATML)
        bos = llama.token_bos()
        self._llama = llama
        self._bos = bos if bos != -1 and llama._model.add_bos_token() else None
        self._formatter = Jinja2ChatFormatter(
            template=self.source,
            bos_token=_token_text(llama, bos),
            eos_token=_token_text(llama, llama.token_eos()),
        )
        self._control = ControlTokens.of(llama, self.source)
        environment = jinja2.Environment(
            extensions=[Jinja2ChatFormatter.IgnoreGenerationTags, "jinja2.ext.loopcontrols"]
        )
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
        tokens = self._with_bos(self._control.tokenize(text, literals, self._tokenize))
        return Prompt(hidden, text, tokens)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        refusal: Exception | None = None
        incomplete: str | None = None
        for variant in variants(messages, knows_tools=self.knows_tools):
            try:
                text = self._formatter(messages=variant, **variables).prompt  # type: ignore[arg-type]
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

    def _tokenize(self, text: bytes, special: bool) -> list[int]:
        return self._llama.tokenize(text, add_bos=False, special=special)

    def _with_bos(self, tokens: list[int]) -> list[int]:
        return tokens if self._bos is None or tokens[:1] == [self._bos] else [self._bos, *tokens]


def _token_text(llama: llama_cpp.Llama, token: int) -> str:
    return "" if token == -1 else str(llama._model.token_get_text(token))
