"""Patterns as grammars with one parse: llama.cpp follows every parse that there is."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest

from tests.worker.chat.grammar_checker import GrammarChecker
from worker.chat.grammar.gbnf import Budget, Grammar
from worker.chat.grammar.json_schema import _FORMATS
from worker.chat.grammar.pattern import UnsupportedPattern, pattern_rule

Interval = tuple[int, int]

# With many parses, if they were written down as they stand.
AMBIGUOUS = {
    "optional, repeated": "^(a?){300}$",
    "optional pairs, repeated": "^(?:[a-z]?[0-9]?){20}$",
    "overlapping alternatives": "^(a|[ab]|[abc]|[abcd])*x$",
    "nested stars": "^(((a*)*)*b?)*$",
    "nested groups": "^" + "(a|" * 150 + "a" + ")" * 150 + "$",
    "empty, repeated": "^((){1000}){1000}$",
    "several tails": "^(a|ab|abc|abcd)*(a*|b*|c*)$",
}
USUAL = {
    "a long class": "^[a-z]{0,500}$",
    "any text": r"^(.|\n){1,2000}$",
    "words": r"^\w+@\w+\.\w+$",
    "contains": ".*foo.*",
    "one of many, anywhere": "cat|dog|bird|mouse|house|tree|apple|banana|cherry|lemon|zebra",
    "one of many, after anything": "^.*(cat|dog|bird|mouse|house|tree|apple|banana|cherry|lemon).*$",
    "not a space": r"^[^\s@]+@[^\s@]+\.[^\s@]+$",
    "anything": r"^[\s\S]*$",
    "semantic version": r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[\da-zA-Z-]+(?:\.[\da-zA-Z-]+)*)?$",
    **_FORMATS,
}


def compiled(pattern: str) -> str:
    grammar = Grammar()
    return grammar.text(pattern_rule(grammar, pattern))


def intervals(token: str, rules: dict[str, str]) -> list[Interval]:
    """The characters that a class, a literal of one character or a rule for a class lets through."""
    if token.startswith('"'):
        return [(ord(token[-2]),) * 2]
    text = (token if token.startswith("[") else rules[token])[1:-1]
    escape = r"\\x..|\\u....|\\U........|\w"
    ends = re.findall(f"({escape})(?:-({escape}))?", text)
    return [(code(low), code(high or low)) for low, high in ends]


def code(spelled: str) -> int:
    return int(spelled[2:], 16) if spelled[1:] else ord(spelled)


def choices(body: str) -> list[list[list[str]]]:
    """Every place of a rule where alternatives are chosen from, each alternative as its tokens."""
    found: list[list[list[str]]] = []
    open_choices: list[list[list[str]]] = [[[]]]
    for token in re.findall(r'\[[^\]]*\]|"(?:\\.|[^"])*"|[\w-]+|[(|)]', body):
        if token == "(":
            open_choices.append([[]])
        elif token == ")":
            found.append(open_choices.pop())
        elif token == "|":
            open_choices[-1].append([])
        else:
            open_choices[-1][-1].append(token)
    return [*found, *open_choices]


def overlaps(grammar: str) -> list[str]:
    """The rules with a choice that the next character does not settle."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    found = []
    for name, body in rules.items():
        for alternatives in choices(body):
            if len(alternatives) > 1 and not name.startswith(("root", "pattern", "again")):
                first = sorted(
                    interval for tokens in alternatives for interval in intervals(tokens[0], rules)
                )
                if any(one[1] >= other[0] for one, other in itertools.pairwise(first)):
                    found.append(f"{name} ::= {body}")
    return found


@pytest.mark.parametrize("name", [*AMBIGUOUS, *USUAL])
def test_the_next_character_settles_every_choice(name: str) -> None:
    """But for one: whether an unanchored pattern begins here."""
    grammar = compiled((AMBIGUOUS | USUAL)[name])
    assert overlaps(grammar) == []
    assert grammar.count("again-0 ::=") <= 1
    GrammarChecker(grammar).close()


def test_the_check_sees_an_overlap() -> None:
    assert overlaps('x ::= [a-c] x | [c] y | "\\""') == ['x ::= [a-c] x | [c] y | "\\""']
    assert overlaps('x ::= [a] x | "\\\\" ([n] x | [nr] y)') == ['x ::= [a] x | "\\\\" ([n] x | [nr] y)']
    assert overlaps('x ::= [a-b] x | c-0 y | "\\""\nc-0 ::= [\\x63-d\\u00E9]') == []


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (AMBIGUOUS["optional, repeated"], ["", "a" * 300], ["a" * 301, "b"]),
        (AMBIGUOUS["optional pairs, repeated"], ["", "a1b2c", "z" * 20], ["z" * 21, "A"]),
        (AMBIGUOUS["overlapping alternatives"], ["x", "abcd" * 50 + "x"], ["abcd" * 50, "ex"]),
        (AMBIGUOUS["nested stars"], ["", "aaab" * 50], ["c"]),
        (AMBIGUOUS["nested groups"], ["a"], ["", "aa"]),
        (USUAL["any text"], ["\n", "a\n\té" * 500], ["", "a" * 2001]),
        (USUAL["one of many, anywhere"], ["cat", "a\n dogs", "ccat"], ["", "ca", "c at"]),
        (USUAL["one of many, after anything"], ["cat", " dogs"], ["a\ndogs", "ca"]),
        (USUAL["not a space"], ["ä@b.c"], ["a\u00a0@b.c", "a@b"]),
        (USUAL["anything"], ["", "\u00a0 \n"], []),
        (r"^\S$", ["é", "\U0001f5fc"], ["\u00a0", "\u3000", "\n"]),
        ('^["\\\\/\b\f\n\r\t]{8}$', ['"\\/\b\f\n\r\t'], ["\\/\b\f\n\r\t"]),
        ("^(?:a|b$)", ["ac", "b"], ["bc", "cb"]),
        ("(?:^a|b)$", ["a", "cb"], ["ca"]),
        ("$^", [""], ["a"]),
        ("[\x01a]", ["a"], [""]),
    ],
)
def test_sentences_are_let_through_or_not(pattern: str, matching: list[str], other: list[str]) -> None:
    checker = GrammarChecker(compiled(pattern))
    for text in matching:
        assert checker.accepts(json.dumps(text, ensure_ascii=False)), text
    for text in other:
        assert not checker.accepts(json.dumps(text, ensure_ascii=False)), text
    checker.close()


def random_pattern(choose: random.Random, depth: int) -> str:
    if depth == 0:
        return choose.choice(["a", "b", "c", ".", "[ab]", "[^a]", r'"', r"\n", "(?:)", "^", "$"])
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
    assert accepted(pattern) == matching


def accepted(pattern: str) -> set[str]:
    try:
        grammar = compiled(pattern)
    except UnsupportedPattern as error:
        if "no JSON string matches" in str(error):
            return set()
        raise
    assert overlaps(grammar) == []
    checker = GrammarChecker(grammar)
    found = {text for text in TEXTS if checker.accepts(json.dumps(text))}
    checker.close()
    return found


@pytest.mark.parametrize(
    "pattern",
    [
        "^((a?){1000}){1000}$",
        "^" + "(?:" * 25 + "a?" + "){2}" * 25 + "$",
        "^(?:(?:a{0,20}){0,20}){0,20}$",
        "(a|b)*a(a|b){15}",
        "^.{0,6000}$",
        "^x(.*(cat|dog|bird|mouse|house|tree|apple|lemon).*)$",
        "a" * 20_000,
    ],
)
def test_what_would_take_too_long_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedPattern, match=r"too large or too ambiguous; use smaller|longer than"):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(" * 2000 + ")" * 2000, "nested too deeply"),
        ("(?i)a", "flags"),
        (r"\ba", "at_boundary"),
        ("[^\\s\\S]", "no JSON string"),
        ("^\x00$", "no JSON string"),
    ],
)
def test_what_a_grammar_cannot_hold_is_refused_by_name(pattern: str, message: str) -> None:
    with pytest.raises(UnsupportedPattern, match=message):
        compiled(pattern)


def test_many_patterns_share_one_budget() -> None:
    grammar = Grammar()
    grammar.pattern_steps = Budget(3500)
    pattern_rule(grammar, "^a{200}$")
    with pytest.raises(UnsupportedPattern, match="too large"):
        pattern_rule(grammar, "^a{201}$")
