"""One conversation in ever plainer forms, down to what a template can hardly refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat import messages as shapes
from worker.chat.messages import Message
from worker.chat.tools.definitions import instructions, with_plain_schemas

Tools = Sequence[Mapping[str, Any]]
Change = Callable[[Sequence[Message]], list[Message]]


@dataclass(frozen=True, slots=True)
class Offer:
    """The template's `tools`, and what the system message tells of them where the template cannot."""

    tools: Tools | None
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """What a template is given."""

    messages: list[Message]
    tools: Tools | None


def offers(tools: Tools | None) -> Iterator[Offer]:
    """Some templates know only the plainest schemas; some want a list of tools, if only an empty one."""
    if tools:
        yield Offer(tools)
        plain = with_plain_schemas(list(tools))
        if plain != tools:
            yield Offer(plain)
    told = (instructions(tools),) if tools else ()
    yield Offer(None, told)
    yield Offer([], told)


def forms(
    texts: Sequence[Message], objects: Sequence[Message], offer: Offer, *, native: bool = True
) -> Iterator[Form]:
    """Calls as data in every way, if `native`, then as text.

    `texts` and `objects` are the same messages, with the arguments of calls as JSON text and as objects.
    """
    tried: list[list[Message]] = []
    histories = [*(_native(texts, objects) if native else ()), shapes.with_calls_as_text(objects)]
    for group in (histories, [shapes.with_results_as_text(histories[-1])]):
        for plainer in _PLAINER:
            for history in group:
                messages = plainer(shapes.with_instructions(history, offer.told))
                if messages not in tried:
                    tried.append(messages)
                    yield Form(messages, offer.tools)


def _native(texts: Sequence[Message], objects: Sequence[Message]) -> Iterator[list[Message]]:
    for separated in _SEPARATED:
        for messages in (objects, texts, shapes.with_short_ids(objects)):
            yield separated(messages)


def _as_it_is(messages: Sequence[Message]) -> list[Message]:
    return list(messages)


def _single_with_text_before(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_text_before_calls(shapes.with_single_calls(messages))


def _single_with_text_after(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_single_calls(shapes.with_text_after_calls(messages))


def _user_first(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_user_first(shapes.with_one_system_message(messages))


def _system_in_user(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_user_first(shapes.without_system_message(shapes.with_one_system_message(messages)))


def _alternating(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_alternating_roles(_user_first(messages))


def _alternating_without_system(messages: Sequence[Message]) -> list[Message]:
    return shapes.with_alternating_roles(_system_in_user(messages))


_SEPARATED: tuple[Change, ...] = (
    _as_it_is,
    shapes.with_text_before_calls,
    shapes.with_text_after_calls,
    shapes.with_single_calls,
    _single_with_text_before,
    _single_with_text_after,
)
_PLAINER: tuple[Change, ...] = (
    _as_it_is,
    shapes.with_one_system_message,
    _user_first,
    _system_in_user,
    _alternating,
    _alternating_without_system,
)
