"""The parts of a request that templates look into, and the words that they look for there."""

from __future__ import annotations

from enum import Enum


class Place(Enum):
    """Where in a request a mapping stands, which decides what its keys may be to a template."""

    VARIABLES = "variables"  # of the template
    MESSAGE = "message"  # or a tool, a call, a document
    SCHEMA = "schema"
    NAMES = "names"  # of the properties of a schema
    ARGUMENTS = "arguments"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The words that templates look for, where they look for them; anything else is the client's own text.
_KEYS = {
    Place.MESSAGE: _words(
        "role content name text title tools tool_calls tool_call_id id type function description parameters "
        "arguments strict response return reasoning_content reasoning thinking"
    ),
    Place.SCHEMA: _words(
        "type description properties required items prefixItems enum const anyOf oneOf allOf not default "
        "format title nullable minimum maximum minLength maxLength minItems maxItems pattern "
        "additionalProperties $ref $defs definitions examples"
    ),
    Place.NAMES: _words(""),
    Place.ARGUMENTS: _words(""),
}
_VALUES = {
    "reasoning_effort": _words("none minimal low medium high xhigh max"),
    "role": _words("system developer user assistant tool function"),
    "type": _words("function object array string number integer boolean null text"),
}
_INNER = {"arguments": Place.ARGUMENTS, **dict.fromkeys(("parameters", "response", "return"), Place.SCHEMA)}


def looked_for(place: Place, key: str, value: object = None) -> bool:
    """Whether a template may look for this key there or, where one is given, for this value under it."""
    known = place is Place.VARIABLES or key in _KEYS[place]
    return known and (value is None or (isinstance(value, str) and value in _VALUES.get(key, ())))


def inner(place: Place, key: str) -> Place:
    """Where the value under `key` stands."""
    match place:
        case Place.VARIABLES | Place.MESSAGE:
            return _INNER.get(key, Place.MESSAGE)
        case Place.SCHEMA:
            return Place.NAMES if key in ("properties", "$defs", "definitions") else place
        case Place.NAMES:
            return Place.SCHEMA
        case Place.ARGUMENTS:
            return place
