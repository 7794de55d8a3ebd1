"""Parameters that no model here can honour: marked where they are declared, as `Annotated[..., mark]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from gateway.errors import unsupported
from gateway.json_body import StrictBody


@dataclass(frozen=True)
class Hint:
    """It helps elsewhere and changes nothing here: accepted, and reported as ignored."""


@dataclass(frozen=True)
class Refused:
    """It would change the answer: a 400 that says why it cannot, unless its value is `unless`."""

    why: str
    unless: object = None


def refuse_unsupported(body: StrictBody) -> None:
    for name, mark in _marks(type(body)).items():
        if isinstance(mark, Refused) and getattr(body, name) not in (None, mark.unless):
            raise unsupported(name, mark.why)


def hints(body: StrictBody) -> Iterable[str]:
    """The hints that were given; false asks for nothing."""
    for name, mark in _marks(type(body)).items():
        if isinstance(mark, Hint) and getattr(body, name) not in (None, False):
            yield name


@cache
def _marks(body: type[StrictBody]) -> Mapping[str, Hint | Refused]:
    return {
        name: mark
        for name, field in body.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Hint | Refused)
    }
