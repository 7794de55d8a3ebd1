"""Writing grammars in llguidance's dialect of Lark, of texts that clients may have chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from llguidance import regex_to_lark

_ELEMENT = re.compile(r"\\.|.", re.DOTALL)
_NEWLINES = {"\n": r"\n", "\\\n": r"\n", "\r": r"\r", "\\\r": r"\r"}


def literal(text: str) -> str:
    """Exactly this text, which must not be empty and has no control tokens."""
    return json.dumps(text)


def either(expressions: Iterable[str]) -> str:
    """One of them."""
    alternatives = list(dict.fromkeys(expressions))
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def listed(parts: Sequence[tuple[str, bool]], comma: str) -> str:
    """The rules in their order with commas between; those that are not required may be left out."""
    if not parts:
        return ""
    (first, required), rest = parts[0], parts[1:]
    separator = literal(comma)
    follow = " ".join(f"{separator} {part}" if needed else f"({separator} {part})?" for part, needed in rest)
    if required:
        return f"{first} {follow}"
    without = listed(rest, comma)
    return f"({first} {follow} | {without})" if without else f"({first} {follow})?"


def regex(pattern: str) -> str:
    """Text that the whole of a regular expression matches. Raises ValueError where it has no such form."""
    if not pattern:
        raise ValueError("it is empty")
    # JavaScript's classes, as in a JSON Schema.
    elements = _ELEMENT.findall(regex_to_lark(pattern, "dw"))
    if _ELEMENT.findall(pattern)[-1] == "\\" or "/" in elements:
        raise ValueError("it ends in a backslash")
    return f"/{''.join(_NEWLINES.get(element, element) for element in elements)}/"


def escaped(text: str) -> str:
    """Exactly this text, inside of a regular expression."""
    return regex_to_lark(re.escape(text))
