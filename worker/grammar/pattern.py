"""Regular expressions, as JSON Schema's `pattern` has them, as GBNF over the characters of a JSON string."""

from __future__ import annotations

import re
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from worker.grammar.gbnf import Grammar, either, literal

Ranges = list[tuple[int, int]]

_LAST = 0x10FFFF
_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
# Never written raw inside a JSON string: controls, the quote, the backslash, DEL, and surrogates.
_NOT_RAW: Ranges = [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)]
_CATEGORIES: dict[Any, Ranges] = {
    sre.CATEGORY_DIGIT: [(0x30, 0x39)],
    sre.CATEGORY_SPACE: [(0x09, 0x0D), (0x20, 0x20)],
    sre.CATEGORY_WORD: [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}
_NEGATED = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}


class UnsupportedPattern(ValueError):
    """The message says which construct a grammar cannot express."""


def pattern_rule(grammar: Grammar, pattern: str) -> str:
    """An expression for the quoted JSON strings that `pattern` matches somewhere, as JSON Schema has it."""
    # ECMAScript's named groups, in Python's spelling.
    spelled = re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", pattern)
    try:
        parsed = sre_parser.parse(spelled)
    except (re.error, OverflowError, RecursionError) as error:
        raise UnsupportedPattern(f"it is not a regular expression that can be read ({error})") from error
    body = _sequence(grammar, list(parsed), at_start=True, at_end=True)
    return grammar.add("pattern", f'"\\"" {body} "\\""')


def _sequence(grammar: Grammar, nodes: list[Any], *, at_start: bool, at_end: bool) -> str:
    """Anything may stand before and after a pattern that is not anchored there."""
    parts: list[str] = []
    before = at_start and not _opens(nodes)
    after = at_end and not _closes(nodes)
    if at_start and nodes and nodes[0] == (sre.AT, sre.AT_BEGINNING):
        nodes, at_start, before = nodes[1:], False, False
    if at_end and nodes and nodes[-1] in ((sre.AT, sre.AT_END), (sre.AT, sre.AT_END_STRING)):
        nodes, at_end, after = nodes[:-1], False, False
    if before or (after and not nodes):
        parts.append(f"{grammar.primitive('char')}*")
    for index, node in enumerate(nodes):
        first, last = index == 0, index == len(nodes) - 1
        parts.append(
            _node(
                grammar,
                node,
                at_start=at_start and first and not before,
                at_end=at_end and last and not after,
            )
        )
    if after and nodes:
        parts.append(f"{grammar.primitive('char')}*")
    return " ".join(part for part in parts if part) or '""'


def _opens(nodes: list[Any]) -> bool:
    """Whether the first node takes care of the pattern's start itself."""
    return bool(nodes) and nodes[0][0] in (sre.SUBPATTERN, sre.BRANCH)


def _closes(nodes: list[Any]) -> bool:
    return bool(nodes) and nodes[-1][0] in (sre.SUBPATTERN, sre.BRANCH)


def _node(grammar: Grammar, node: Any, *, at_start: bool, at_end: bool) -> str:
    kind, value = node
    if kind is sre.LITERAL:
        return _characters([(value, value)])
    if kind is sre.NOT_LITERAL:
        return _characters(_inverse([(value, value)]))
    if kind is sre.ANY:
        return _characters(_inverse([(0x0A, 0x0A), (0x0D, 0x0D)]))
    if kind is sre.IN:
        return _characters(_set(value))
    if kind is sre.BRANCH:
        return either(
            f"({_sequence(grammar, list(branch), at_start=at_start, at_end=at_end)})" for branch in value[1]
        )
    if kind is sre.SUBPATTERN and not value[1] and not value[2]:
        return f"({_sequence(grammar, list(value[3]), at_start=at_start, at_end=at_end)})"
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, repeated = value
        item = grammar.add("repeated", _sequence(grammar, list(repeated), at_start=False, at_end=False))
        return grammar.repeat(item, least, None if most == sre.MAXREPEAT else most)
    raise UnsupportedPattern(f"it uses {str(kind).lower()}, which a grammar cannot express")


def _set(items: list[Any]) -> Ranges:
    ranges: Ranges = []
    negated = False
    for kind, value in items:
        if kind is sre.NEGATE:
            negated = True
        elif kind is sre.LITERAL:
            ranges.append((value, value))
        elif kind is sre.RANGE:
            ranges.append(value)
        elif value in _NEGATED:
            ranges += _inverse(_CATEGORIES[_NEGATED[value]])
        else:
            ranges += _CATEGORIES[value]
    return _inverse(ranges) if negated else ranges


def _inverse(ranges: Ranges) -> Ranges:
    gaps: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return [*gaps, (start, _LAST)] if start <= _LAST else gaps


def _characters(ranges: Ranges) -> str:
    """One character out of `ranges`, as JSON writes it."""
    raw = _inverse([*_inverse(ranges), *_NOT_RAW])
    alternatives = [f"[{''.join(_range(low, high) for low, high in raw)}]"] if raw else []
    for char, escaped in _JSON_ESCAPES.items():
        if any(low <= ord(char) <= high for low, high in ranges):
            alternatives.append(literal(escaped))
    if not alternatives:
        raise UnsupportedPattern("it asks for a character that JSON strings cannot hold")
    return either(alternatives)


def _range(low: int, high: int) -> str:
    return f"\\U{low:08X}" if low == high else f"\\U{low:08X}-\\U{high:08X}"
