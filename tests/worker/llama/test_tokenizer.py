"""Tokenizing: exactly as llama.cpp does it, but that no text ends the process or costs more than its size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdist import pre_tokenizers, vocabulary_files
from tests.tiny_vocabulary import byte_pair_vocabulary, load, sentence_piece_vocabulary
from worker.llama import tokenizer
from worker.llama.library import llama_cpp
from worker.llama.vocabulary import LlamaVocabulary
from worker.protocol import ContextLengthExceeded

ROOT = Path(__file__).parents[3]
# Run by an interpreter of its own: what is tested for ends the process.
ENDURANCE = """
import sys
from pathlib import Path
from tests.tiny_vocabulary import byte_pair_vocabulary
folder, *names = sys.argv[1:]
for name in names:
    model = "whitespace" if name == "whitespace" else "gpt2"
    vocabulary = byte_pair_vocabulary(Path(folder) / "v.gguf", ["<s>"], pre=name, model=model)
    for word in ("a", "A", "aA", " ", "\\n", "1", "a1", "!", ".\\n", "'s", "\\u4e2d", "\\u0e01", "\\u0301"):
        print(name, repr(word), flush=True)
        text = word * (60_000 // len(word))
        vocabulary.tokenize(text.encode(), True)
print("survived")
"""


@pytest.mark.parametrize("part", range(6))
def test_no_pre_tokenizer_falls_over_equal_characters(part: int, tmp_path: Path) -> None:
    """Some call themselves once for each character of a word: 27,000 of them are more than 8 MiB of stack."""
    names = pre_tokenizers()[part::6]
    command = [sys.executable, "-c", ENDURANCE, str(tmp_path), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("survived\n"), done.stdout[-60:]


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory: pytest.TempPathFactory) -> LlamaVocabulary:
    return byte_pair_vocabulary(tmp_path_factory.mktemp("v") / "v.gguf", ["<s>"], pre="llama-bpe")


@pytest.fixture(scope="module")
def sentence_pieces(tmp_path_factory: pytest.TempPathFactory) -> LlamaVocabulary:
    return sentence_piece_vocabulary(tmp_path_factory.mktemp("v") / "v.gguf", ["<s>"])


@pytest.mark.parametrize("kind", ["byte_pairs", "sentence_pieces"])
def test_a_text_that_is_cut_has_the_tokens_of_the_whole(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = request.getfixturevalue(kind)
    text = "The user calls the system.\nIt thinks, \u00e4rger, 123 456.\n\n  <s>Then it ends.\n".encode() * 40
    whole = vocabulary.tokenize(text, True)
    monkeypatch.setattr(tokenizer, "_LONG", 500)
    assert vocabulary.tokenize(text, True) == whole


def test_numbers_of_any_length_are_grouped_as_superbpe_does(tmp_path: Path) -> None:
    """Whose own expression takes time by the square of a number's length."""
    vocabulary = byte_pair_vocabulary(tmp_path / "v.gguf", ["<s>"], pre="superbpe")
    for length in (300, 301, 302, 999, 1001):
        text = f"n={'7' * length}, and {'8' * length}".encode()
        assert vocabulary.tokenize(text, True) == vocabulary._tokenizer._call(text, True)


def test_text_that_continues_another_gets_no_space_before_it(sentence_pieces: LlamaVocabulary) -> None:
    def pieces(*, continued: bool) -> bytes:
        tokens = sentence_pieces.tokenize(b"user", False, continued=continued)
        return b"".join(map(sentence_pieces.piece, tokens))

    assert pieces(continued=False) == b" user"
    assert pieces(continued=True) == b"user"


@pytest.mark.parametrize("path", vocabulary_files(), ids=lambda path: path.stem)
def test_tokens_are_those_of_the_library(path: Path) -> None:
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    vocabulary = LlamaVocabulary(model._model)
    text = "Hello, w\u00f6rld!\n\n\t<s>[INST] \u65e5\u672c\u8a9e \U0001f5fc  12345 </s> don't".encode()
    for special in (True, False):
        assert vocabulary.tokenize(text, special) == model.tokenize(text, add_bos=False, special=special)


def limited(tmp_path: Path, context_length: int) -> LlamaVocabulary:
    path = tmp_path / "v.gguf"
    byte_pair_vocabulary(path, ["<s>"])
    return load(path, context_length)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(tmp_path: Path) -> None:
    """By its bytes alone: the longest token has six."""
    vocabulary = limited(tmp_path, 100)
    with pytest.raises(ContextLengthExceeded) as refused:
        vocabulary.check_fits(b"x" * 10_000_000)
    assert refused.value.num_tokens == 10_000_000 // 6 + 1
    assert refused.value.context_length == 100


def test_a_text_that_might_fit_is_tokenized_up_to_where_it_does_not(tmp_path: Path) -> None:
    vocabulary = limited(tmp_path, 1_000)
    tokenized = 0
    tokenize = vocabulary._tokenizer.tokenize

    def counting(text: bytes, special: bool) -> list[int]:
        nonlocal tokenized
        tokenized += len(text)
        return tokenize(text, special)

    vocabulary._tokenizer._longest = 1_000  # as in vocabularies that have a token for long white space
    vocabulary._tokenizer.tokenize = counting  # type: ignore[assignment, method-assign]
    with pytest.raises(ContextLengthExceeded) as refused:
        vocabulary.check_fits(b"one word after another " * 40_000)
    assert 1_000 < refused.value.num_tokens < 20_000
    assert tokenized < 20_000


def test_a_text_that_fits_is_not_refused(tmp_path: Path) -> None:
    vocabulary = limited(tmp_path, 1_000)
    for text in (b"", b"x" * 1_000, b"system " * 300):
        vocabulary.check_fits(text)
