"""Finding any of many thousand strings in a text, in time that does not grow with their number."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_END = ""  # the key under which a node says that a string ends there


def any_of(strings: Iterable[str]) -> re.Pattern[str] | None:
    """Matches nothing wide at each place where one of the strings begins; group 1 is the longest of them."""
    root: dict[str, Any] = {}
    for string in strings:
        node = root
        for char in string:
            node = node.setdefault(char, {})
        node[_END] = True
    return re.compile(f"(?=({_pattern(root)}))") if root else None


def _pattern(node: dict[str, Any]) -> str:
    """The longest string from here on: alternatives share no beginning, and an end comes last."""
    branches = [_branch(char, child) for char, child in node.items() if char != _END]
    if not branches:
        return ""
    group = branches[0] if len(branches) == 1 and _END not in node else f"(?:{'|'.join(branches)})"
    return f"{group}?" if _END in node else group


def _branch(char: str, node: dict[str, Any]) -> str:
    """A run of characters without a choice, then the rest; runs are not nested, however long they are."""
    run = [char]
    while len(node) == 1 and _END not in node:
        ((char, node),) = node.items()
        run.append(char)
    return re.escape("".join(run)) + _pattern(node)
