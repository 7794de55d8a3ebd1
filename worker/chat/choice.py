"""Which chat template a model is served with: the operator's, the model's own, or its family's."""

from __future__ import annotations

from collections.abc import Mapping

import jinja2

from worker.chat import defaults
from worker.chat.control_tokens import ChatVocabulary
from worker.chat.template import ChatTemplate

_KEY = "tokenizer.chat_template"


class NoTemplate(ValueError):
    """What should be a chat template is none; the message says why."""


def chat_template(
    metadata: Mapping[str, str], vocabulary: ChatVocabulary, given: str | None = None
) -> ChatTemplate:
    """`given` is a template's source, which comes before what the model's `metadata` have.

    Where neither is there, the vocabulary's tokens for roles tell the family; answers end at them as well.
    Raises NoTemplate for a source that is not Jinja.
    """
    if given is not None:
        return _compiled(given, vocabulary)
    own, for_tools = metadata.get(_KEY), metadata.get(f"{_KEY}.tool_use")
    if own or for_tools:
        return _compiled(own or for_tools or "", vocabulary, for_tools)
    family = defaults.family_of({*vocabulary.control_tokens(), *vocabulary.user_defined_tokens()})
    if family is None:
        return ChatTemplate(defaults.NO_TEMPLATE, vocabulary)
    vocabulary.add_ends(family.tokens)
    return ChatTemplate(family.source, vocabulary)


def _compiled(source: str, vocabulary: ChatVocabulary, for_tools: str | None = None) -> ChatTemplate:
    try:
        return ChatTemplate(source, vocabulary, for_tools)
    except jinja2.TemplateSyntaxError as error:
        raise NoTemplate(f"not a Jinja template: line {error.lineno}: {error.message}") from error
