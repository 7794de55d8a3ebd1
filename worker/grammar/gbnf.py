"""Writing GBNF: rules with unique names, literals, repetitions, and JSON's own primitives."""

from __future__ import annotations

import re
from collections.abc import Iterable

# llama.cpp silently drops an upper bound beyond 2,000 and refuses a lower one; blocks stay below.
_MAX_REPEAT = 1000
_BLOCK = 500

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


class Grammar:
    """Rules under construction. Expressions are strings that stand wherever one symbol may."""

    def __init__(self) -> None:
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
        name, count = f"{base}-0", 0
        while name in self._rules:
            count += 1
            name = f"{base}-{count}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> str:
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
