"""Constraints over vocabularies of several kinds: what is a control token, what is text, and what ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_vocabulary
from tests.tiny_vocabulary import byte_pair_vocabulary, sentence_piece_vocabulary
from worker.chat.constraint import Constraint, ConstraintError, Constraints
from worker.chat.schema.enforceable import enforceable, json_rule
from worker.llama.token_table import read_token_table
from worker.llama.vocabulary import LlamaVocabulary

CONTROL = ("<|end|>", "</think>", "[CALLS]")
Make = Callable[..., LlamaVocabulary]


def make(vocabulary: LlamaVocabulary) -> Constraints:
    model = tiny_vocabulary._models[-1]._model
    return Constraints(lambda: read_token_table(model, vocabulary))


def takes(constraint: Constraint, tokens: list[int]) -> bool:
    """Whether the tokens may come, and then the end."""
    for token in tokens:
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.is_complete


@pytest.fixture(params=[byte_pair_vocabulary, sentence_piece_vocabulary])
def vocabulary(request: pytest.FixtureRequest, tmp_path: Path) -> LlamaVocabulary:
    made: LlamaVocabulary = request.param(tmp_path / "v.gguf", CONTROL, ["<tool>"])
    return made


def test_control_tokens_in_a_text_are_tokens_and_others_are_text(vocabulary: LlamaVocabulary) -> None:
    constraints = make(vocabulary)
    constraint = constraints.compile(f'start: {constraints.written("[CALLS]<tool>x</think>")} "!"')
    parts = (b"[CALLS]", b"<tool>", b"x", b"</think>", b"!")
    tokens = [token for part in parts for token in vocabulary.tokenize(part, True, continued=True)]
    assert takes(constraint.copy(), tokens)
    as_text = vocabulary.tokenize(b"[CALLS]<tool>x</think>!", False, continued=True)
    assert not takes(constraint.copy(), as_text)
    assert constraints.control("[CALLS]") == f"<[{tokens[0]}]>"
    assert constraints.control("<tool>") is None


@pytest.mark.parametrize("tag", ["</think>", "</thought>"])
def test_anything_may_come_before_a_tag(vocabulary: LlamaVocabulary, tag: str) -> None:
    constraints = make(vocabulary)
    constraint = constraints.compile(f'start: thought "ok"\n{constraints.until("thought", tag)}')
    end = vocabulary.tokenize(tag.encode(), True, continued=True)
    ok = vocabulary.tokenize(b"ok", False, continued=True)
    hm = vocabulary.tokenize(b"Hm, <think> \n{", False, continued=True)
    assert takes(constraint.copy(), [*hm, *end, *ok])
    assert takes(constraint.copy(), [*end, *ok])
    assert not takes(constraint.copy(), [*hm, *ok])
    assert not takes(constraint.copy(), [*hm, *end, *hm])


def test_no_control_token_is_part_of_a_string(vocabulary: LlamaVocabulary) -> None:
    constraint = make(vocabulary).compile(f"start: {json_rule(enforceable({'type': 'string'}))}")
    for token in vocabulary.tokenize(b'"a', False, continued=True):
        constraint.accept(token)
    row = np.zeros(vocabulary.size, np.float32)
    constraint.mask(row)
    for text in CONTROL:
        (token,) = vocabulary.tokenize(text.encode(), True, continued=True)
        assert not np.isfinite(row[token])
    (user_defined,) = vocabulary.tokenize(b"<tool>", True, continued=True)
    assert np.isfinite(row[user_defined])


def test_every_token_that_ends_an_answer_may_end_this_one(vocabulary: LlamaVocabulary) -> None:
    vocabulary.add_ends(["<|end|>", "[CALLS]"])
    constraint = make(vocabulary).compile("start: /a+/")
    constraint.accept(vocabulary.tokenize(b"a", False, continued=True)[0])
    row = np.zeros(vocabulary.size, np.float32)
    constraint.mask(row)
    for text in ("<|end|>", "[CALLS]"):
        (token,) = vocabulary.tokenize(text.encode(), True, continued=True)
        assert np.isfinite(row[token])


def test_what_is_forced_has_the_models_own_tokens(vocabulary: LlamaVocabulary) -> None:
    schema = enforceable({"const": {"start": "the end", "user": [1, 2.5, None, "é"]}})
    forced = make(vocabulary).compile(f"start: {json_rule(schema)}").forced()
    text = '{"start": "the end", "user": [1, 2.5, null, "é"]}'
    assert b"".join(vocabulary.piece(token) for token in forced) == text.encode()
    assert forced == vocabulary.tokenize(text.encode(), False, continued=True)


def test_a_long_text_does_not_end_the_process(tmp_path: Path) -> None:
    """Some pre-tokenizers of llama.cpp call themselves once for each character of a word."""
    vocabulary = byte_pair_vocabulary(tmp_path / "v.gguf", CONTROL, pre="gpt-4o")
    text = "a" * 100_000
    forced = make(vocabulary).compile(f"start: {json_rule(enforceable({'const': text}))}").forced()
    assert b"".join(vocabulary.piece(token) for token in forced) == f'"{text}"'.encode()


def test_copies_go_their_own_ways(vocabulary: LlamaVocabulary) -> None:
    constraint = make(vocabulary).compile('start: "a" | "b"')
    one, other = constraint.copy(), constraint.copy()
    a, b = (vocabulary.tokenize(text, False, continued=True)[0] for text in (b"a", b"b"))
    one.accept(a)
    assert one.is_complete
    assert not other.is_complete
    assert other.allows(b)


@pytest.mark.parametrize("grammar", ["start: (", "start: missing", "start: /(?=a)/", "nothing", ""])
def test_a_grammar_that_makes_no_sense_is_an_error(vocabulary: LlamaVocabulary, grammar: str) -> None:
    with pytest.raises(ConstraintError):
        make(vocabulary).compile(grammar)
