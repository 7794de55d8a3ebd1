"""From messages to prompt tokens, by the chat template that the model brings along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from worker.chat.completeness import Probe
from worker.chat.control_tokens import ChatVocabulary, ControlTokens
from worker.chat.formats.families import choose
from worker.chat.formats.record import Format
from worker.chat.forms import Form, Offer, Tools, forms, offers
from worker.chat.jinja import JinjaTemplate, TemplateExhausted, TemplateRefusal
from worker.chat.messages import Message, with_argument_objects
from worker.chat.messages import normalized as normalized_messages
from worker.chat.places import Place
from worker.chat.tools.definitions import TOOL_VARIABLES, tool_variables
from worker.chat.tools.definitions import normalized as normalized_tools
from worker.protocol import ContextLengthExceeded, InvalidRequest

# What the server itself hands to a template; clients may set everything else.
RESERVED = frozenset(
    {
        "self",
        "messages",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "datetime",
        "bos_token",
        "eos_token",
        "add_generation_prompt",
        "raise_exception",
        "strftime_now",
    }
)


NEXT_PARAGRAPH = "\n\n"
CONTINUE = "continue_final_message"  # as vLLM's clients ask for it


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation; `text` has stand-ins where tokens might begin or end in what a client wrote.

    `form` is how its model writes what comes next.
    """

    text: str
    tokens: list[int]
    form: Format


# Conversations that show what a template can do at all.
_LOOK_UP = {"name": "look_up", "description": "Looks up a word"}
_TOOLS = normalized_tools([{"type": "function", "function": _LOOK_UP}])
_CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "tree"}'}}
_USER = {"role": "user", "content": "What is a tree?"}
_SAID: list[list[Message]] = [[_USER], [{"role": "system", "content": "Be brief."}, _USER]]
_CALLING: list[Message] = [
    _USER,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "A plant."},
    {"role": "assistant", "content": "It is a plant."},
    {"role": "user", "content": "And a bush?"},
]


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    misses: int
    tells_tools: bool


class ChatTemplate:
    """Renders by a model's template, in a sandbox; chats with tools by the one `for_tools` if there is one.

    Raises jinja2.TemplateSyntaxError for a source that is not Jinja.
    """

    def __init__(self, source: str, vocabulary: ChatVocabulary, for_tools: str | None = None) -> None:
        self.source = source
        self.for_tools: ChatTemplate = ChatTemplate(for_tools, vocabulary) if for_tools else self
        self._vocabulary = vocabulary
        self._control = ControlTokens.of(vocabulary, source)
        self._template = JinjaTemplate(source, self._control.hide)
        self.variables: frozenset[str] = self._template.variables
        if for_tools:
            self.variables |= self.for_tools.variables
        self.knows_tools = not self.variables.isdisjoint(TOOL_VARIABLES)
        self.form = choose(source, knows_tools=self.knows_tools)
        vocabulary.show(self.form.markers)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> Prompt:
        """The prompt, in which nothing that a client wrote is a control token.

        Raises InvalidRequest with the template's own words if it refuses every form of the conversation, and
        ContextLengthExceeded without much work for one that is certain to be too long.
        """
        length = self._vocabulary.context_length
        if length is not None and len(messages) > length:  # each is a token at least
            raise ContextLengthExceeded(length, len(messages), "messages", at_least=True)
        if tools and self.for_tools is not self:
            return self.for_tools.prompt(messages, tools, **template_kwargs)
        texts, hide = normalized_messages(messages), self._control.hide
        # Decoded first: JSON's escapes would keep control tokens from being seen.
        hidden = hide(texts), hide(with_argument_objects(texts))
        offered = hide(normalized_tools(tools)) if tools else []
        try:
            rendered = self._rendered(*hidden, offered, hide(template_kwargs, Place.VARIABLES))
        except TemplateExhausted as error:
            raise _refused(error) from error
        tokens = self._tokens(rendered.text)
        form = choose(self.source, knows_tools=False) if rendered.tells_tools else self.form
        return Prompt(rendered.text, tokens, form)

    def continued(self, prompt: Prompt, begun: Message) -> Prompt:
        """A prompt of this template with what the assistant has begun to say behind it.

        Raises InvalidRequest for families that do not simply write their answer there.
        """
        form, hide = prompt.form, self._control.hide
        if form.channels or form.answer.begin:
            raise InvalidRequest("This model's answers cannot be continued.", CONTINUE, "invalid_value")
        thought, text = begun.get("reasoning_content") or "", prompt.text
        opened = form.opened_by(text)
        tags = opened or (form.thinks_with if thought else None)
        if tags is not None:
            text += "" if opened else tags.begin
            text += "" if text.endswith("\n") else "\n"
            text += f"{hide(thought)}\n{tags.end}{form.after_thinking or NEXT_PARAGRAPH}"
        text += hide(begun["content"])
        return Prompt(text, self._tokens(text), form)

    @cached_property
    def protects_roles(self) -> bool:
        """Whether there is a token between what one says and what another does, which no text can forge."""
        said = [_USER, {"role": "assistant", "content": "It is a plant."}, _USER]
        for offer in offers(None):
            probe = Probe(Form(said, offer.tools))
            try:
                text = self._render(probe.form, {})
            except TemplateRefusal:
                continue
            turns = [text.find(mark) for mark in probe.marks] + [len(text)]
            tokens = [start for start, _ in self._control.template_tokens(text)]
            return all(any(start < token < stop for token in tokens) for start, stop in pairwise(turns))
        return True

    def _rendered(
        self, texts: list[Message], objects: list[Message], tools: Tools, variables: Mapping[str, Any]
    ) -> _Rendered:
        """Of the first form that the template shows all of; otherwise of that of which it shows most."""
        refusal: TemplateRefusal | None = None
        best: _Rendered | None = None
        for offer in self._accepted(offers(tools), variables):
            for form in forms(texts, objects, offer, native=self._shows_calls):
                try:
                    misses = self._misses(form, variables)
                    if best is None or misses < best.misses:
                        best = _Rendered(self._render(form, variables), misses, bool(offer.told))
                except TemplateRefusal as error:
                    refusal = refusal or error
                    continue
                if best.misses == 0:
                    return best
        if best is None:
            raise _refused(refusal) from refusal
        return best

    def _accepted(self, candidates: Iterator[Offer], variables: Mapping[str, Any]) -> Iterator[Offer]:
        """Without those whose tools the template does not show whatever is said."""
        for offer in candidates:
            shown = (self._shows(Form(said, offer.tools), variables) for said in _SAID)
            if not offer.tools or (self.knows_tools and any(shown)):
                yield offer

    @cached_property
    def _shows_calls(self) -> bool:
        """Whether there is any way in which the template shows calls and results."""
        texts = normalized_messages(_CALLING)
        return any(
            self._shows(form, {})
            for offer in (*offers(None), *offers(_TOOLS))
            for form in forms(texts, with_argument_objects(texts), offer)
            if any("tool_calls" in message for message in form.messages)
        )

    def _shows(self, form: Form, variables: Mapping[str, Any]) -> bool:
        try:
            return self._misses(form, variables) == 0
        except TemplateRefusal:
            return False

    def _misses(self, form: Form, variables: Mapping[str, Any]) -> int:
        probe = Probe(form)
        return probe.misses(self._render(probe.form, variables))

    def _render(self, form: Form, variables: Mapping[str, Any]) -> str:
        return self._template.render(
            {
                **variables,
                "messages": form.messages,
                **tool_variables(form.tools),
                "bos_token": self._vocabulary.bos_text,
                "eos_token": self._vocabulary.eos_text,
                "add_generation_prompt": True,
            }
        )

    def _tokens(self, text: str) -> list[int]:
        try:
            return self._with_bos(self._control.tokenize(text, self._vocabulary))
        except ContextLengthExceeded as error:
            raise error.of("messages") from None

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]


def _refused(why: Exception | None) -> InvalidRequest:
    message = f"The model's chat template refused these messages: {why}"
    return InvalidRequest(message, "messages", "chat_template_error")
