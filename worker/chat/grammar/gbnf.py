"""Writing GBNF: rules with unique names, literals, repetitions, and JSON's own primitives."""

from __future__ import annotations

import re
from collections.abc import Iterable

# llama.cpp silently drops an upper bound beyond 2,000 and refuses a lower one; blocks stay below.
_MAX_REPEAT = 1000
_BLOCK = 500

MAX_CHARACTERS = 400_000
MAX_STEPS = 250_000

# One code point of a JSON string. Escapes of surrogates are left out, so that every string is valid
# Unicode and has as many characters as it has `char`s.
_CHAR = (
    r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | '
    r'"u" ([0-9abcefABCEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))'
)

# Bounded, so that no model can idle in white space or in digits until its tokens run out.
_PRIMITIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ws": (r'("" | " " | "\n" [ \t]{0,20})', ()),
    "char": (_CHAR, ()),
    "string": (r'"\"" char* "\""', ("char",)),
    "integer": ('"-"? ("0" | [1-9] [0-9]{0,15})', ()),
    "number": ('integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?', ("integer",)),
    "boolean": ('"true" | "false"', ()),
    "null": ('"null"', ()),
    "member": ('string ":" ws value', ("string", "ws", "value")),
    "object": ('"{" ws (member ("," ws member)* ws)? "}"', ("ws", "member")),
    "array": ('"[" ws (value ("," ws value)* ws)? "]"', ("ws", "value")),
    "value": (
        "object | array | string | number | boolean | null",
        ("object", "array", "string", "number", "boolean", "null"),
    ),
}


class Exhausted(Exception):
    """A budget is spent."""


class Budget:
    """How much of something there may be in all, so that a short request cannot take minutes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise Exhausted


class Grammar:
    """Rules under construction. Expressions are strings that stand wherever one symbol may.

    The budgets are the work that may go into schemas and into patterns; adding a rule raises Exhausted where
    the text gets too long.
    """

    def __init__(self) -> None:
        self.schema_steps = Budget(MAX_STEPS)
        self.pattern_steps = Budget(MAX_STEPS)
        self._characters = Budget(MAX_CHARACTERS)
        self._names: dict[str, int] = {}
        self._rules: dict[str, str] = {}

    def primitive(self, name: str) -> str:
        """The name of one of JSON's own rules, added with all that it needs."""
        if name not in self._rules:
            body, needs = _PRIMITIVES[name]
            self._rules[name] = body
            for needed in needs:
                self.primitive(needed)
        return name

    def reserve(self, hint: str) -> str:
        """An unused name, for a rule that may refer to itself; `define` it later."""
        base = re.sub(r"[^a-zA-Z0-9]+", "-", hint).strip("-")[:40] or "rule"
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return f"{base}-{count}"

    def define(self, name: str, body: str) -> str:
        self._characters.spend(len(name) + len(body))
        self._rules[name] = body
        return name

    def add(self, hint: str, body: str) -> str:
        return self.define(self.reserve(hint), body)

    def repeat(self, item: str, least: int, most: int | None) -> str:
        """`item` from `least` to `most` times, unambiguously, however large the numbers are."""
        if max(least, most or 0) <= _MAX_REPEAT:
            return f"{item}{{{least},{'' if most is None else most}}}"
        block = self.add("block", f"{item}{{{_BLOCK}}}")
        parts = [f"{block}{{{least // _BLOCK}}}"] if least >= _BLOCK else []
        parts += [f"{item}{{{least % _BLOCK}}}"] if least % _BLOCK else []
        if most is None:
            parts.append(f"{item}*")
        elif most > least:
            blocks, rest = divmod(most - least, _BLOCK)
            full = f"{block}{{{blocks}}} {item}{{0,{rest}}}" if blocks else f"{item}{{0,{rest}}}"
            fewer = f"{block}{{0,{blocks - 1}}} {item}{{0,{_BLOCK - 1}}} | " if blocks else ""
            parts.append(f"({fewer}{full})")
        return f"({' '.join(parts)})"

    def text(self, root: str) -> str:
        """The whole grammar, beginning at the expression `root`."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())])


def literal(text: str) -> str:
    """Exactly this text."""
    return '"' + "".join(_ESCAPES.get(char) or _printable(char) for char in text) + '"'


def either(expressions: Iterable[str]) -> str:
    alternatives = list(dict.fromkeys(expressions))
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


_ESCAPES = {'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _printable(char: str) -> str:
    return char if char >= " " and char != "\x7f" else f"\\x{ord(char):02X}"
