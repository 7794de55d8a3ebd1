"""Regular expressions, in schemas and by themselves: what they let through is what matches."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest

from tests.worker.chat.grammar_checker import GrammarChecker
from worker.chat import lark
from worker.chat.constraint import ConstraintError
from worker.chat.schema.document import SchemaError
from worker.chat.schema.enforceable import enforceable, json_rule


def checker(pattern: str) -> GrammarChecker:
    return GrammarChecker(f"start: {json_rule(enforceable({'type': 'string', 'pattern': pattern}))}")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("^(a?){300}$", ["", "a" * 300], ["a" * 301, "b"]),
        ("^(?:[a-z]?[0-9]?){20}$", ["", "a1b2c", "z" * 20], ["z" * 21, "A"]),
        ("^(a|[ab]|[abc]|[abcd])*x$", ["x", "abcd" * 50 + "x"], ["abcd" * 50, "ex"]),
        ("^(((a*)*)*b?)*$", ["", "aaab" * 50], ["c"]),
        ("^" + "(a|" * 100 + "a" + ")" * 100 + "$", ["a"], ["", "aa"]),
        ("^a$|^b+$", ["a", "bb"], ["aa", "ab"]),
        (r"^(.|\n){1,2000}$", ["\n", "a\n\té" * 500], ["", "a" * 2001]),
        ("cat|dog|bird|mouse|house|tree|apple", ["cat", "a\n dogs", "ccat"], ["", "ca", "c at"]),
        ("^.*(cat|dog|bird|mouse|house|tree|apple).*$", ["cat", " dogs"], ["a\ndogs", "ca"]),
        (r"^[^\s@]+@[^\s@]+\.[^\s@]+$", ["ä@b.c"], ["a@b", "@b.c"]),
        (r"^[\s\S]*$", ["", "\u00a0 \n"], []),
        (r"^\S$", ["é", "\U0001f5fc"], ["\n"]),
        (r"^\p{L}+$", ["é", "東京"], ["1", ""]),
        (r"^\w\d$", ["a1", "_0"], ["é1", "a٣"]),
        ('^["\\\\/\b\f\n\r\t]{8}$', ['"\\/\b\f\n\r\t'], ["\\/\b\f\n\r\t"]),
        ("^(?:a|b$)", ["ac", "b"], ["bc", "cb"]),
        ("(?:^a|b)$", ["a", "cb"], ["ca"]),
        ("^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)(?:-[\\da-z-]+(?:\\.[\\da-z-]+)*)?$", ["1.0-rc.1", "0.0"], ["01.0"]),
    ],
)
def test_strings_are_let_through_or_not(pattern: str, matching: list[str], other: list[str]) -> None:
    grammar = checker(pattern)
    for text in matching:
        assert grammar.accepts(json.dumps(text, ensure_ascii=False)), text
    for text in other:
        assert not grammar.accepts(json.dumps(text, ensure_ascii=False)), text


def random_pattern(choose: random.Random, depth: int) -> str:
    if depth == 0:
        return choose.choice(["a", "b", "c", ".", "[ab]", "[^a]", r'"', r"\n", "(?:)"])
    inner = [random_pattern(choose, depth - 1) for _ in range(choose.randint(1, 3))]
    match choose.randint(0, 3):
        case 0:
            return "".join(inner)
        case 1:
            return f"({'|'.join(inner)})"
        case _:
            count = choose.choice(["*", "+", "?", "{0}", "{2}", "{1,3}", "{2,}", "*?", "{0,2}"])
            return f"(?:{inner[0]}){count}"


TEXTS = ["".join(text) for size in range(4) for text in itertools.product('ab"\n', repeat=size)] + ["abcab"]


@pytest.mark.parametrize("seed", range(60))
def test_what_matches_is_what_pythons_re_says(seed: int) -> None:
    choose = random.Random(seed)
    pattern = "".join(
        [choose.choice(["", "^"]), *(random_pattern(choose, 2) for _ in range(2)), choose.choice(["", "$"])]
    )
    matching = {text for text in TEXTS if re.search(pattern.replace("$", r"\Z"), text)}
    if not matching:
        return
    grammar = checker(pattern)
    assert {text for text in TEXTS if grammar.accepts(json.dumps(text))} == matching


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(" * 2000 + ")" * 2000, "exceed the maximum number of nested"),
        (r"\ba", "lookarounds not supported"),
        ("(?<=a)b", "look-around"),
        ("[^\\s\\S]", "no value is allowed"),
        ("a(^|b)", "lookarounds not supported"),
    ],
)
def test_what_a_grammar_cannot_hold_is_refused_by_name(pattern: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        checker(pattern)


def test_a_pattern_that_no_json_string_matches_is_refused_before_anything_is_written() -> None:
    with pytest.raises(ConstraintError):
        checker("^\x00$")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("[0-9]{3}-[0-9]{4}", ["555-1234"], ["555-12345", " 555-1234", ""]),
        ("^(yes|no)$", ["yes", "no"], ["maybe", "yesno"]),
        ("a/b\\/c\n#?", ["a/b/c\n", "a/b/c\n#"], ["a/b/c"]),
        ('a" | "b', ['a" ', ' "b'], ["a", "b"]),
        (r"\\/ | start", ["\\/ ", " start"], ["start"]),
        (r"a\nb", ["a\nb"], ["anb"]),
    ],
)
def test_a_regular_expression_by_itself(pattern: str, matching: list[str], other: list[str]) -> None:
    grammar = GrammarChecker(f"start: {lark.regex(pattern)}")
    for text in matching:
        assert grammar.accepts(text), text
    for text in other:
        assert not grammar.accepts(text), text


@pytest.mark.parametrize("pattern", ["", "a\\", "\\"])
def test_a_regular_expression_that_could_end_its_own_grammar_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is empty|ends in a backslash"):
        lark.regex(pattern)
