"""Regular languages as deterministic automata over intervals of code points.

Glushkov's construction: each place of a pattern where one character stands is a position, and sets of
positions are the bits of an integer. Subset construction makes the automaton deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from worker.chat.grammar.gbnf import Budget

Ranges = tuple[tuple[int, int], ...]

MAX_POSITIONS = 10_000
MAX_STATES = 5_000


class TooComplex(Exception):
    """The automaton would have more positions or states than anyone should have to wait for."""


class Anchor(Enum):
    """A position that no character is read at."""

    START = "^"
    END = "$"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a pattern: the positions that it may begin and end with, and whether it may be empty."""

    first: int = 0
    last: int = 0
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """`edges` are the next states, each with the characters that lead there and to no other."""

    accepting: bool
    edges: dict[int, Ranges]


@dataclass(frozen=True, slots=True)
class Automaton:
    """From each of the `states` there is a way to an accepting one.

    `first` is where a text begins, `later` where the pattern begins after other text; None where no text
    matches from there.
    """

    states: list[State]
    first: int | None
    later: int | None


@dataclass(slots=True)
class _Node:
    """A state whose characters are the bits of an integer, one for each class."""

    accepting: bool
    edges: dict[int, int] = field(default_factory=dict)


EMPTY = Fragment()


class Positions:
    """All positions of one pattern, and for each of them those that may come next."""

    def __init__(self, budget: Budget) -> None:
        self.symbols: list[Ranges | Anchor] = []
        self.follow: list[int] = []
        self._budget = budget

    def symbol(self, symbol: Ranges | Anchor) -> Fragment:
        bit = 1 << self._add(symbol, 0)
        return Fragment(bit, bit, nullable=False)

    def sequence(self, fragments: Sequence[Fragment]) -> Fragment:
        # From the right, so that each fragment's ends are walked through only once.
        whole = EMPTY
        for fragment in reversed(fragments):
            whole = self._concatenated(fragment, whole)
        return whole

    def either(self, fragments: Sequence[Fragment]) -> Fragment:
        first = last = 0
        for fragment in fragments:
            first, last = first | fragment.first, last | fragment.last
        return Fragment(first, last, any(fragment.nullable for fragment in fragments))

    def star(self, fragment: Fragment) -> Fragment:
        for position in bits(fragment.last):
            self.follow[position] |= fragment.first
        return Fragment(fragment.first, fragment.last)

    def repeat(self, fragment: Fragment, start: int, least: int, most: int | None) -> Fragment:
        """`fragment`, which takes all positions from `start`, from `least` to `most` times."""
        count = max(least, 1) if most is None else most
        if count == 0:
            return EMPTY
        copies = [fragment, *self._copies(fragment, start, count - 1)]
        if most is None:
            looped = self.star(copies[-1])
            last = looped if least == 0 else Fragment(looped.first, looped.last, copies[-1].nullable)
            return self.sequence([*copies[:-1], last])
        optional = EMPTY
        for copy in reversed(copies[least:]):
            both = self._concatenated(copy, optional)
            optional = Fragment(both.first, both.last)
        return self.sequence([*copies[:least], optional])

    def _concatenated(self, one: Fragment, other: Fragment) -> Fragment:
        if other.first:
            for position in bits(one.last):
                self.follow[position] |= other.first
        return Fragment(
            one.first | other.first if one.nullable else one.first,
            one.last | other.last if other.nullable else other.last,
            one.nullable and other.nullable,
        )

    def _copies(self, fragment: Fragment, start: int, count: int) -> Iterator[Fragment]:
        stop = len(self.symbols)
        size = stop - start
        for number in range(1, count + 1):
            shift = number * size
            for position in range(start, stop):
                self._add(self.symbols[position], self.follow[position] << shift)
            yield Fragment(fragment.first << shift, fragment.last << shift, fragment.nullable)

    def _add(self, symbol: Ranges | Anchor, follow: int) -> int:
        if len(self.symbols) == MAX_POSITIONS:
            raise TooComplex
        self._budget.spend(1)
        self.symbols.append(symbol)
        self.follow.append(follow)
        return len(self.symbols) - 1

    def anchors(self, anchor: Anchor) -> int:
        return sum(1 << position for position, symbol in enumerate(self.symbols) if symbol is anchor)


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def deterministic(positions: Positions, whole: Fragment, anything: Fragment, budget: Budget) -> Automaton:
    """The automaton of `whole`, which `anything` may follow. Raises TooComplex, or Exhausted."""
    accept = positions.symbol(Anchor.ACCEPT)
    start = positions.sequence([whole, anything, accept]).first
    subsets = _Subsets(positions, anything.first, accept.first, budget)
    nodes, later = subsets.nodes(start)
    useful = _useful(nodes)
    kept = _merge(nodes)
    numbers = {old: new for new, old in enumerate(sorted(useful & set(kept)))}
    states = [
        State(
            nodes[old].accepting,
            {
                numbers[to]: subsets.ranges(classes)
                for to, classes in nodes[old].edges.items()
                if to in numbers
            },
        )
        for old in numbers
    ]
    return Automaton(states, numbers.get(kept[0]), numbers.get(kept[later]))


class _Subsets:
    """Subset construction: a state is the set of positions that may be read next."""

    def __init__(self, positions: Positions, anything: int, accept: int, budget: Budget) -> None:
        self._positions, self._budget = positions, budget
        self._anything, self._accept = anything, accept
        self._starts, self._ends = positions.anchors(Anchor.START), positions.anchors(Anchor.END)
        self._characters = ~(self._starts | self._ends | accept)
        self._sets = sorted({symbol for symbol in positions.symbols if not isinstance(symbol, Anchor)})
        numbers = {symbol: number for number, symbol in enumerate(self._sets)}
        self._number = [numbers.get(symbol, -1) for symbol in positions.symbols]  # type: ignore[arg-type]
        self._intervals, self._classes = _classes(self._sets, budget)
        self._price = 1 + len(positions.symbols) // 2000  # of a step, with integers as long as that

    def nodes(self, start: int) -> tuple[list[_Node], int]:
        """The first node is where a text begins; the number is of that where it has begun before."""
        begun = self._through(start, self._starts)
        roots = [
            self._normal(begun, accepting=self._accepts(begun, self._starts | self._ends)),
            self._normal(start, accepting=self._accepts(start, self._ends)),
        ]
        subsets, nodes = list(dict.fromkeys(roots)), list[_Node]()
        later = len(subsets) - 1
        numbers = {subset: number for number, subset in enumerate(subsets)}
        for subset in subsets:  # which grows
            node = _Node(bool(subset & self._accept))
            for reached, classes in self._moves(subset).items():
                if reached not in numbers:
                    if len(subsets) == MAX_STATES:
                        raise TooComplex
                    numbers[reached] = len(subsets)
                    subsets.append(reached)
                node.edges[numbers[reached]] = classes
            nodes.append(node)
        return nodes, later

    def ranges(self, classes: int) -> Ranges:
        joined: list[tuple[int, int]] = []
        for low, high in sorted(interval for number in bits(classes) for interval in self._intervals[number]):
            self._budget.spend(1)
            if joined and joined[-1][1] == low - 1:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
        return tuple(joined)

    def _moves(self, subset: int) -> dict[int, int]:
        """The states that lie one character further, with the classes of characters that lead there."""
        follow: dict[int, int] = {}
        for position in bits(subset & self._characters):
            self._budget.spend(self._price)
            number = self._number[position]
            follow[number] = follow.get(number, 0) | self._positions.follow[position]
        pieces: list[tuple[int, int]] = []  # disjoint classes, and what follows them
        for number, reached in follow.items():
            self._budget.spend(len(pieces))
            rest = self._classes[number]
            split = [(rest & classes, reached | before) for classes, before in pieces]
            split += [(classes & ~rest, before) for classes, before in pieces]
            for classes, _ in pieces:
                rest &= ~classes
            pieces = [piece for piece in (*split, (rest, reached)) if piece[0]]
        moves: dict[int, int] = {}
        for classes, reached in pieces:
            normal = self._normal(reached, accepting=self._accepts(reached, self._ends))
            moves[normal] = moves.get(normal, 0) | classes
        return moves

    def _normal(self, subset: int, *, accepting: bool) -> int:
        """Without the anchors, which are passed by now, and without what makes no difference any more."""
        if subset & self._anything:
            return self._anything | self._accept
        return subset & self._characters | (self._accept if accepting else 0)

    def _accepts(self, subset: int, anchors: int) -> bool:
        return bool(self._through(subset, anchors) & self._accept)

    def _through(self, subset: int, anchors: int) -> int:
        """`subset` with all that lies behind these anchors."""
        seen = 0
        while fresh := subset & anchors & ~seen:
            seen |= fresh
            for position in bits(fresh):
                self._budget.spend(1)
                subset |= self._positions.follow[position]
        return subset


def _classes(sets: Sequence[Ranges], budget: Budget) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Classes of characters that all sets treat alike: their intervals, and each set's classes."""
    changes: dict[int, int] = {}
    for number, ranges in enumerate(sets):
        for low, high in ranges:
            budget.spend(1)
            changes[low] = changes.get(low, 0) ^ 1 << number
            changes[high + 1] = changes.get(high + 1, 0) ^ 1 << number
    intervals: dict[int, list[tuple[int, int]]] = {}
    holders, begin = 0, 0
    for end in sorted(changes):
        if holders:
            intervals.setdefault(holders, []).append((begin, end - 1))
        holders, begin = holders ^ changes[end], end
    classes = [0] * len(sets)
    for number, holders in enumerate(intervals):
        for holder in bits(holders):
            budget.spend(1)
            classes[holder] |= 1 << number
    return list(intervals.values()), classes


def _useful(nodes: list[_Node]) -> set[int]:
    """Those from which an accepting one can be reached."""
    sources = _sources(nodes)
    useful = {number for number, node in enumerate(nodes) if node.accepting}
    todo = list(useful)
    while todo:
        fresh = sources[todo.pop()] - useful
        useful |= fresh
        todo += fresh
    return useful


def _merge(nodes: list[_Node]) -> list[int]:
    """For each the one that may stand in its place, which accepts alike and leads to the same.

    The edges are redirected accordingly.
    """
    sources = _sources(nodes)
    same = list(range(len(nodes)))
    seen: dict[tuple[bool, frozenset[tuple[int, int]]], int] = {}
    todo = list(same)
    while todo:
        number = todo.pop()
        if same[number] != number:
            continue
        # A node that leads to itself is the same as another that does.
        edges = ((-1 if to == number else to, classes) for to, classes in nodes[number].edges.items())
        same[number] = first = seen.setdefault((nodes[number].accepting, frozenset(edges)), number)
        if first != number:
            for source in sources[number]:
                redirected = nodes[source].edges
                redirected[first] = redirected.get(first, 0) | redirected.pop(number)
                sources[first].add(source)
            todo += sources[number]
    return [_last(same, number) for number in same]


def _last(same: list[int], number: int) -> int:
    while same[number] != number:
        number = same[number]
    return number


def _sources(nodes: list[_Node]) -> list[set[int]]:
    sources: list[set[int]] = [set() for _ in nodes]
    for number, node in enumerate(nodes):
        for target in node.edges:
            sources[target].add(number)
    return sources


# How many different beginnings of one to eight characters the tokens of a vocabulary have, about.
_BEGINNINGS = (300, 5_000, 20_000, 25_000, 25_000, 20_000, 15_000, 10_000)
MAX_COST = 2_000_000


def check_cost(automaton: Automaton, budget: Budget) -> None:
    """Raises TooComplex where llama.cpp would take too long to see which tokens are allowed.

    It follows each way through the automaton that some token takes, and looks at every edge at every state
    on the way, and again at every edge behind each.
    """
    states = automaton.states
    costs = [(len(state.edges) + 2) ** 2 for state in states]
    ways, behind = [1] * len(states), costs
    total = costs
    for beginnings in _BEGINNINGS:
        budget.spend(len(states))
        ways = [sum(ways[to] for to in state.edges) for state in states]
        behind = [sum(behind[to] for to in state.edges) for state in states]
        total = [
            before + cost * min(number, beginnings) // max(number, 1)
            for before, cost, number in zip(total, behind, ways, strict=True)
        ]
    if max(total, default=0) > MAX_COST:
        raise TooComplex
