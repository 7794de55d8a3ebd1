"""Who holds which tokens: a radix tree over every slot and every saved state.

Each node stands for a prefix and knows all who hold it, so that finding the longest known prefix of a prompt
takes time in proportion to the prompt, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class Tier(IntEnum):
    """Where a prefix can be had from, the cheapest first."""

    SLOT = 0
    MEMORY = 1
    FILE = 2


class Holder(Protocol):
    """A slot, a state in memory or a file; told apart by identity."""

    tier: Tier
    namespace: str  # whose it is: see PrefixIndex


@dataclass(slots=True, eq=False)
class Node:
    """A prefix of `depth` tokens; `edge` are those after the parent's."""

    edge: list[int]
    depth: int
    parent: Node | None = None
    children: dict[int, Node] = field(default_factory=dict)
    holders: tuple[set[Holder], set[Holder], set[Holder]] = field(
        default_factory=lambda: (set(), set(), set())
    )

    @property
    def num_holders(self) -> int:
        return sum(map(len, self.holders))

    def path(self) -> Iterator[Node]:
        """This node and those above it, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True, slots=True)
class Step:
    """All holders of `node` have the first `depth` tokens that were asked for, and their next ones differ
    unless a deeper step has them too."""

    depth: int
    node: Node


# What belongs to nobody in particular, and anybody may have.
PUBLIC = ""


class PrefixIndex:
    """`insert` and `remove` holders, `match` tokens.

    Each namespace has a tree of its own: how soon an answer comes tells what was asked before, so what one
    key has asked is not to be found by another.
    """

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self._ends: dict[Holder, Node] = {}

    def __contains__(self, holder: Holder) -> bool:
        return holder in self._ends

    def __iter__(self) -> Iterator[Holder]:
        return iter(self._ends)

    def insert(self, holder: Holder, tokens: list[int]) -> Node:
        """Enter a holder, or enter it anew; returns the node at the end of its tokens."""
        self.remove(holder)
        node = self._roots.setdefault(holder.namespace, Node([], 0))
        while node.depth < len(tokens):
            node = self._descend(node, tokens)
            node.holders[holder.tier].add(holder)
        self._ends[holder] = node
        return node

    def remove(self, holder: Holder) -> None:
        """Forget a holder, if it is known."""
        node = self._ends.pop(holder, None)
        while node is not None and node.parent is not None:
            parent = node.parent
            node.holders[holder.tier].discard(holder)
            if not node.num_holders:
                del parent.children[node.edge[0]]
            elif len(node.children) == 1:
                self._merge(node)
            node = parent

    def match(self, tokens: list[int], namespace: str = PUBLIC) -> list[Step]:
        """The nodes along the longest known prefix of the tokens, from short to long: all of the namespace's,
        or all public."""
        own = self._match(tokens, namespace)
        public = self._match(tokens, PUBLIC) if namespace != PUBLIC else []
        return public if public and (not own or public[-1].depth > own[-1].depth) else own

    def _match(self, tokens: list[int], namespace: str) -> list[Step]:
        steps: list[Step] = []
        node, depth = self._roots.get(namespace), 0
        if node is None:
            return steps
        while depth < len(tokens) and (child := node.children.get(tokens[depth])) is not None:
            shared = common_prefix(child.edge, tokens[depth : child.depth])
            depth += shared
            steps.append(Step(depth, child))
            if shared < len(child.edge):
                break
            node = child
        return steps

    def num_elsewhere(self, holder: Holder) -> int:
        """How many leading tokens of a holder others have as well."""
        end = self._ends.get(holder)
        return next((n.depth for n in end.path() if n.num_holders > 1), 0) if end is not None else 0

    def others_at_end(self, holder: Holder) -> Iterator[Holder]:
        """Who else has exactly the same tokens."""
        end = self._ends[holder]
        for other in (h for holders in end.holders for h in holders):
            if other is not holder and self._ends[other] is end:
                yield other

    def prefixes(self, holder: Holder, tier: Tier) -> Iterator[Holder]:
        """Who has nothing but a prefix of the holder's tokens, or the same."""
        below: set[Holder] = set()
        for node in self._ends[holder].path():
            for other in node.holders[tier] - below:
                if other is not holder and self._ends[other] is node:
                    yield other
            below = node.holders[tier]

    def tokens(self, holder: Holder) -> list[int]:
        edges = [node.edge for node in self._ends[holder].path()]
        return [token for edge in reversed(edges) for token in edge]

    def check_integrity(self) -> None:
        nodes = list(self._roots.values())
        for node in nodes:
            for first, child in node.children.items():
                assert child.parent is node
                assert child.edge[0] == first
                assert child.depth == node.depth + len(child.edge)
                assert child.num_holders, "a node that nobody holds"
                assert node.parent is None or all(
                    below <= above for below, above in zip(child.holders, node.holders, strict=True)
                )
            nodes += node.children.values()
        held = {holder for node in nodes for holders in node.holders for holder in holders}
        assert held <= self._ends.keys(), "a node has a holder that was removed"

    def _descend(self, node: Node, tokens: list[int]) -> Node:
        """The next node on the way to the tokens' end, made where there is none."""
        start = node.depth
        child = node.children.get(tokens[start])
        if child is None:
            child = Node(tokens[start:], len(tokens), node)
            node.children[tokens[start]] = child
            return child
        shared = common_prefix(child.edge, tokens[start : child.depth])
        return child if shared == len(child.edge) else self._split(child, shared)

    def _split(self, node: Node, shared: int) -> Node:
        assert node.parent is not None
        slots, memory, files = node.holders
        upper = Node(node.edge[:shared], node.parent.depth + shared, node.parent)
        upper.holders = (set(slots), set(memory), set(files))
        node.parent.children[node.edge[0]] = upper
        node.edge, node.parent = node.edge[shared:], upper
        upper.children[node.edge[0]] = node
        return upper

    def _merge(self, node: Node) -> None:
        """Let a node and its only child be one, where nobody ends or branches off between them."""
        (child,) = node.children.values()
        if child.num_holders == node.num_holders and node.parent is not None:
            child.edge, child.parent = node.edge + child.edge, node.parent
            node.parent.children[child.edge[0]] = child


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many leading tokens are equal; by halving, as comparing slices is fast and loops are not."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
