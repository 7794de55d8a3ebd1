"""Regular expressions, as JSON Schema's `pattern` has them, as GBNF over the characters of a JSON string."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from worker.chat.grammar.automaton import (
    Anchor,
    Automaton,
    Fragment,
    Positions,
    Ranges,
    State,
    TooComplex,
    check_cost,
    deterministic,
)
from worker.chat.grammar.gbnf import Budget, Exhausted, Grammar, either

MAX_LENGTH = 10_000
_LONG = 12  # characters in brackets, from which on several states share them

_LAST = 0x10FFFF
_ESCAPED = {'"': '"', "\\": "\\", "\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
# Never written raw inside a JSON string: controls, the quote, the backslash, DEL, and surrogates.
_NOT_RAW: Ranges = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_DIGITS: Ranges = ((0x30, 0x39),)
_WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_ALL_SPACES: Ranges = (
    *((0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_SINGLE = (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
_ANCHORS = {
    sre.AT_BEGINNING: Anchor.START,
    sre.AT_BEGINNING_STRING: Anchor.START,
    sre.AT_END: Anchor.END,
    sre.AT_END_STRING: Anchor.END,
}

# A part of the pattern under construction: yields the parts within it, to be sent their fragments.
Part = Generator["Part", Fragment, Fragment]


class UnsupportedPattern(ValueError):
    """The message says which construct a grammar cannot express."""


def pattern_rule(grammar: Grammar, pattern: str) -> str:
    """An expression for the quoted JSON strings that `pattern` matches somewhere, as JSON Schema has it.

    Raises UnsupportedPattern, or Exhausted where the grammar has no room for it.
    """
    before, nodes = _split(_parsed(pattern))
    try:
        automaton = _automaton(nodes, grammar.pattern_steps)
        check_cost(automaton, grammar.pattern_steps)
    except (TooComplex, Exhausted) as error:
        raise UnsupportedPattern(
            "it is too large or too ambiguous; use smaller counts such as '{0,50}', fewer parts that may be "
            "left out or that match the same text, or 'maxLength' in its place"
        ) from error
    if automaton.first is None and automaton.later is None:
        raise UnsupportedPattern("no JSON string matches it")
    return grammar.add("pattern", _Rules(grammar, automaton).quoted(before))


def _parsed(pattern: str) -> Any:
    if len(pattern) > MAX_LENGTH:
        raise UnsupportedPattern(f"it is longer than {MAX_LENGTH} characters")
    # ECMAScript's named groups, in Python's spelling.
    spelled = re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", pattern)
    try:
        parsed = sre_parser.parse(spelled)
    except RecursionError as error:
        raise UnsupportedPattern("its groups are nested too deeply") from error
    except (re.error, OverflowError) as error:
        raise UnsupportedPattern(f"it is not a regular expression that can be read ({error})") from error
    if parsed.state.flags & ~re.UNICODE:
        raise UnsupportedPattern("it sets flags, which JSON Schema does not have")
    return parsed


def _split(parsed: Any) -> tuple[Ranges, list[Any]]:
    """The characters that may come before a pattern, and what has to come at last."""
    nodes = _opened(list(parsed))
    if nodes and nodes[0][0] is sre.AT and _ANCHORS.get(nodes[0][1]) is Anchor.START:
        rest = _opened(nodes[1:])
        if rest and (loop := _loop(rest[0])) and rest[0][1][1] == sre.MAXREPEAT:
            return loop, rest[1:]
        return _ANYTHING, nodes
    while nodes and _loop(nodes[0]):  # is what may come before anyway
        nodes = _opened(nodes[1:])
    return _ANYTHING, nodes


def _opened(nodes: list[Any]) -> list[Any]:
    """Without parentheses around what comes first."""
    while nodes and nodes[0][0] is sre.SUBPATTERN and not nodes[0][1][1] and not nodes[0][1][2]:
        nodes = [*nodes[0][1][3], *nodes[1:]]
    return nodes


def _loop(node: Any) -> Ranges:
    """The characters that a part such as `.*` stands for."""
    kind, value = node
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] == 0 and len(value[2]) == 1:
        kind, value = value[2][0]
        if kind in _SINGLE:
            return _writable(_characters(kind, value))
    return ()


def _automaton(nodes: list[Any], budget: Budget) -> Automaton:
    positions = Positions(budget)
    body = _evaluated(_sequence(positions, nodes))
    anything = positions.star(positions.symbol(_ANYTHING))
    return deterministic(positions, body, anything, budget)


def _evaluated(part: Part) -> Fragment:
    """Runs a part and all within it, however deep they are nested."""
    running = [part]
    fragment: Fragment | None = None
    while True:
        try:
            running.append(running[-1].send(fragment))  # type: ignore[arg-type]
            fragment = None
        except StopIteration as finished:
            running.pop()
            fragment = finished.value
            if not running:
                return finished.value  # type: ignore[no-any-return]


def _sequence(positions: Positions, nodes: Iterable[Any]) -> Part:
    fragments = []
    for node in nodes:
        fragments.append((yield _node(positions, node)))
    return positions.sequence(fragments)


def _node(positions: Positions, node: Any) -> Part:
    kind, value = node
    if kind in _SINGLE:
        return positions.symbol(_writable(_characters(kind, value)))
    if kind is sre.AT and value in _ANCHORS:
        return positions.symbol(_ANCHORS[value])
    if kind is sre.BRANCH:
        branches = []
        for branch in value[1]:
            branches.append((yield _sequence(positions, branch)))
        return positions.either(branches)
    if kind is sre.SUBPATTERN and not value[1] and not value[2]:
        return (yield _sequence(positions, value[3]))
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, repeated = value
        start = len(positions.symbols)
        fragment = yield _sequence(positions, repeated)
        return positions.repeat(fragment, start, least, None if most == sre.MAXREPEAT else most)
    construct = str(value if kind is sre.AT else kind).lower()
    raise UnsupportedPattern(f"it uses {construct}, which a grammar cannot express")


def _characters(kind: Any, value: Any) -> Ranges:
    if kind is sre.LITERAL:
        return ((value, value),)
    if kind is sre.NOT_LITERAL:
        return _inverse([(value, value)])
    if kind is sre.ANY:
        return _inverse(_LINE_ENDS)
    negated = value[0][0] is sre.NEGATE
    given = {content for item, content in value if item is sre.CATEGORY}
    categories = _WIDE if negated or given >= _BOTH_SPACES else _NARROW
    ranges: list[tuple[int, int]] = []
    for item, content in value:
        if item is sre.CATEGORY:
            ranges += categories[content]
        elif item is not sre.NEGATE:
            ranges.append((content, content) if item is sre.LITERAL else content)
    return _inverse(ranges) if negated else _inverse(_inverse(ranges))


def _inverse(ranges: Iterable[tuple[int, int]]) -> Ranges:
    gaps: list[tuple[int, int]] = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return (*gaps, (start, _LAST)) if start <= _LAST else tuple(gaps)


# The characters that every dialect counts in, and those that some dialect does.
_NARROW: dict[Any, Ranges] = {
    sre.CATEGORY_DIGIT: _DIGITS,
    sre.CATEGORY_SPACE: _SPACES,
    sre.CATEGORY_WORD: _WORDS,
    sre.CATEGORY_NOT_DIGIT: _inverse(_DIGITS),
    sre.CATEGORY_NOT_SPACE: _inverse(_ALL_SPACES),
    sre.CATEGORY_NOT_WORD: _inverse(_WORDS),
}
_WIDE = {**_NARROW, sre.CATEGORY_SPACE: _ALL_SPACES, sre.CATEGORY_NOT_SPACE: _inverse(_SPACES)}
_BOTH_SPACES = {sre.CATEGORY_SPACE, sre.CATEGORY_NOT_SPACE}
_UNWRITABLE = _inverse([*_inverse(_NOT_RAW), *((ord(char), ord(char)) for char in _ESCAPED)])


def _writable(ranges: Ranges) -> Ranges:
    """Those that can be written in a JSON string, raw or with a short escape."""
    return _inverse([*_inverse(ranges), *_UNWRITABLE])


_ANYTHING = _writable(((0, _LAST),))


class _Rules:
    """A rule for each state, with alternatives that all begin differently: what it matches has one parse."""

    def __init__(self, grammar: Grammar, automaton: Automaton) -> None:
        self._grammar, self._automaton = grammar, automaton
        self._names = [grammar.reserve("p") for _ in automaton.states]
        self._spelled: dict[Ranges, tuple[str, str]] = {}
        self._shared: dict[str, str] = {}

    def quoted(self, before: Ranges) -> str:
        """The whole string, which may begin with any number of the characters `before`."""
        for name, state in zip(self._names, self._automaton.states, strict=True):
            self._grammar.define(name, " | ".join(self._alternatives(state)))
        first, later = self._automaton.first, self._automaton.later
        starts = [] if first is None else [self._names[first]]
        if later is not None and not self._skips(later, before):
            starts.append(self._search(self._names[later], before))
        return f'"\\"" {either(starts)}'

    def _skips(self, number: int, before: Ranges) -> bool:
        """Whether a state is a loop over these characters itself."""
        state = self._automaton.states[number]
        return state.accepting and state.edges.get(number) == before

    def _search(self, found: str, before: Ranges) -> str:
        """One of the characters `before` or more, then `found`.

        This is the only choice that the next character does not settle: an automaton that looks for several
        words at once has so many ways on from each state that llama.cpp takes seconds for a token. It tries
        the last alternative first, and the loop lets most tokens through at once.
        """
        loop = self._grammar.reserve("loop")
        again = self._grammar.add("again", f"{found} | {loop}")
        characters, letters = self._spelling(before)
        raw = [f"{characters} {again}"] if characters else []
        escaped = [f'"\\\\" {letters} {again}'] if letters else []
        return self._grammar.define(loop, " | ".join([*raw, *escaped]))

    def _alternatives(self, state: State) -> list[str]:
        raw, escaped = [], []
        for target, ranges in state.edges.items():
            characters, letters = self._spelling(ranges)
            raw += [f"{characters} {self._names[target]}"] if characters else []
            escaped += [f"{letters} {self._names[target]}"] if letters else []
        escapes = [f'"\\\\" {either(escaped)}'] if escaped else []
        return [*raw, *escapes, *([r'"\""'] if state.accepting else [])]

    def _spelling(self, ranges: Ranges) -> tuple[str, str]:
        """The characters that are written as they are, and what stands after the backslash of the others."""
        if ranges not in self._spelled:
            raw = _inverse([*_inverse(ranges), *_NOT_RAW])
            escaped = [(ord(letter),) * 2 for char, letter in _ESCAPED.items() if _holds(ranges, ord(char))]
            self._spelled[ranges] = self._brackets(raw), self._brackets(escaped)
        return self._spelled[ranges]

    def _brackets(self, ranges: Iterable[tuple[int, int]]) -> str:
        text = "".join(map(_range, ranges))
        if len(text) <= _LONG:
            return text and f"[{text}]"
        if text not in self._shared:
            self._shared[text] = self._grammar.add("c", f"[{text}]")
        return self._shared[text]


def _holds(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _range(interval: tuple[int, int]) -> str:
    low, high = interval
    return _spelled(low) if low == high else f"{_spelled(low)}-{_spelled(high)}"


def _spelled(code: int) -> str:
    """A code point within brackets."""
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
