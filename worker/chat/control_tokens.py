"""Keeps what users write from becoming control tokens: nobody forges a role by typing `<|im_start|>`.

A template sees what a client wrote with stand-ins for the characters that tokens begin and end with. Lone
surrogates stand in: no JSON body can contain one, and templates carry them along like letters. So whatever a
template does with the text, joining halves, cutting, replacing or decoding it, a token that it spells out
whole is its own; whatever else the prompt's text would become a token by is tokenized as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from worker.chat.places import Place, inner, looked_for
from worker.chat.trie import any_of

_FIRST_STAND_IN = 0xDC00
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\\\|\\u(dc[0-9a-f]{2})")  # how Python's repr writes a backslash and a stand-in
_WHITE_SPACE = " \t\n\v\f\r"  # what C's isspace() takes for it
_QUOTES = frozenset("\"'\\")  # a template's JSON has to escape them
_BARS = frozenset("|\uff5c")  # in tokens that are no words, nor HTML
_WORD = re.compile(r"[^\W_].*[^\W_]|[^\W_]", re.DOTALL)


class ChatVocabulary(Protocol):
    """What the chat needs to know of a model's tokens.

    `bos` is None where prompts do not begin with one; texts are "" where the vocabulary has no such token.
    Behind a token of `stripping` white space is dropped. No prompt is longer than `context_length` tokens, if
    that is known.
    """

    bos: int | None
    bos_text: str
    eos_text: str
    stripping: frozenset[str]
    context_length: int | None

    def tokenize(self, text: bytes, special: bool, *, continued: bool = False) -> list[int]:
        """Token ids; control tokens are recognised in `text` only with `special`.

        Before `continued` text there is other text: no space is put there, as some vocabularies do.
        """
        ...

    def control_tokens(self) -> Sequence[str]: ...

    def user_defined_tokens(self) -> Sequence[str]:
        """Those that are recognised in any text."""
        ...

    def add_ends(self, texts: Iterable[str]) -> None:
        """Control tokens at which answers end too."""
        ...

    def show(self, markers: Iterable[str]) -> None:
        """Control tokens in one of these texts are pieces of an answer."""
        ...

    def check_fits(self, text: bytes) -> None:
        """Raises ContextLengthExceeded for a text that is certain not to fit into the context."""
        ...


class ControlTokens:
    """The tokens of one vocabulary that carry structure, as they might be written in a message."""

    def __init__(self, control: Iterable[str], user_defined: Iterable[str] = ()) -> None:
        control = {text for text in control if text.strip()}
        texts = control.union(user_defined)
        self._texts, self._tokens = texts, any_of(texts)
        self._known_ids: frozenset[int] | None = None
        edges = {char for text in texts for char in _edges(text)}
        # What stands between characters of the template's own, as in `'<' + key + '>'`.
        self._insides = frozenset(inside for text in texts for inside in _insides(text))
        self._words = sorted((text for text in texts if not _edges(text)), key=len, reverse=True)
        firsts = {text[0] for text in (*self._insides, *self._words)}
        self._stand_ins = {
            char: chr(_FIRST_STAND_IN + number) for number, char in enumerate(sorted(edges | firsts))
        }
        self._edges = [(char, self._stand_ins[char]) for char in sorted(edges)]
        self._originals = {ord(stand_in): char for char, stand_in in self._stand_ins.items()}

    @classmethod
    def of(cls, vocabulary: ChatVocabulary, template: str) -> ControlTokens:
        user_defined = vocabulary.user_defined_tokens()
        return cls(
            vocabulary.control_tokens(), (text for text in user_defined if _is_structural(text, template))
        )

    def hide(self, value: Any, place: Place = Place.MESSAGE) -> Any:
        """`value` with stand-ins in all of its strings, however deep."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, Mapping):
            return {
                key if looked_for(place, key) else self.hide(key): item
                if looked_for(place, key, item)
                else self.hide(item, inner(place, key))
                for key, item in value.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.hide(item, place) for item in value]
        return value

    def restore(self, text: str) -> str:
        """`text` as it was before it was hidden."""
        return text.translate(self._originals) if _SURROGATE.search(text) else text

    def tokenize(self, rendered: str, vocabulary: ChatVocabulary) -> list[int]:
        """Token ids of a rendered prompt, with no structure but what the template itself wrote.

        If its text spells no more than that, it is one call for all of it: exactly what the template meant.
        """
        text = self.restore(rendered)
        encoded = text.encode()
        vocabulary.check_fits(encoded)
        if text == rendered or _spans(self._tokens, text) == _spans(self._tokens, rendered):
            return vocabulary.tokenize(encoded, True) if text else []
        return [token for tokens in self._pieces(rendered, vocabulary) for token in tokens]

    def template_tokens(self, rendered: str) -> list[tuple[int, int]]:
        """Where in a rendered prompt the template wrote tokens; the longer goes first where two overlap."""
        spans = _spans(self._tokens, rendered)
        if all(stop <= start for (_, stop), (start, _) in pairwise(spans)):
            return spans
        taken: set[int] = set()
        kept = []
        for start, stop in sorted(spans, key=lambda span: span[0] - span[1]):
            if taken.isdisjoint(range(start, stop)):
                taken.update(range(start, stop))
                kept.append((start, stop))
        return sorted(kept)

    def _pieces(self, rendered: str, vocabulary: ChatVocabulary) -> Iterator[list[int]]:
        """Token after token and what is between them, as llama.cpp itself takes a text apart."""
        ids: dict[str, list[int]] = {}
        before, end = "", 0
        for start, stop in (*self.template_tokens(rendered), (len(rendered), len(rendered))):
            yield from self._plain(self.restore(rendered[end:start]), before, vocabulary)
            before, end = rendered[start:stop], stop
            if before not in ids:
                ids[before] = vocabulary.tokenize(before.encode(), True) if before else []
            yield ids[before]

    def _plain(self, text: str, before: str, vocabulary: ChatVocabulary) -> Iterator[list[int]]:
        """What is between two tokens. Only cut in two are those not recognised that plain text may spell."""
        if before in vocabulary.stripping:
            text = text.lstrip(_WHITE_SPACE)
        tokens = vocabulary.tokenize(text.encode(), False) if text else []
        if self._ids(vocabulary).isdisjoint(tokens):
            yield tokens
            return
        cuts = [0, *(start + 1 for start, _ in _spans(self._tokens, text)), len(text)]
        for start, stop in pairwise(cuts):
            yield vocabulary.tokenize(text[start:stop].encode(), False, continued=start > 0)

    def _ids(self, vocabulary: ChatVocabulary) -> frozenset[int]:
        if self._known_ids is None:
            ids = (vocabulary.tokenize(text.encode(), True) for text in self._texts)
            self._known_ids = frozenset(tokens[0] for tokens in ids if len(tokens) == 1)
        return self._known_ids

    def _hidden(self, text: str) -> str:
        hidden = _SURROGATE.sub("\ufffd", text)
        if text in self._insides:
            hidden = self._stand_ins[text[0]] + hidden[1:]
        for word in self._words:
            hidden = hidden.replace(word, self._stand_ins[word[0]] + word[1:])
        for char, stand_in in self._edges:
            hidden = hidden.replace(char, stand_in)
        return text if hidden == text else _Hidden(hidden)


class _Hidden(str):
    """Text with stand-ins, which it keeps where a template writes a list or an object as Python does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _ESCAPED.sub(
            lambda match: chr(int(match[1], 16)) if match[1] else match[0], super().__repr__()
        )


def _spans(pattern: re.Pattern[str] | None, text: str) -> list[tuple[int, int]]:
    return [match.span(1) for match in pattern.finditer(text)] if pattern else []


def _is_structural(user_defined: str, template: str) -> bool:
    """Whether a token that plain text may spell carries structure (Qwen's `<tool_response>`), or is only text
    that is kept in one piece (Gemma's `<table>`, white space)."""
    return len(_edges(user_defined)) > 0 and (user_defined in template or bool(_BARS & set(user_defined)))


def _edges(token: str) -> str:
    """Its first and last character, where these are marks that stand for nothing else in JSON or in words."""
    token = token.strip()
    ends = token[:1] + token[-1:]
    return "".join(char for char in ends if not char.isalnum() and char not in _QUOTES)


def _insides(token: str) -> Iterator[str]:
    """`/think` and `think` for `</think>`: what a template's own `<` and `>` would make a token of."""
    token = token.strip()
    inside = token[1:-1] if len(_edges(token)) == 2 else ""
    word = _WORD.search(inside)
    first, last = word.span() if word else (0, len(inside))
    for start in range(first + 1):
        for stop in range(last, len(inside) + 1):
            if inside[start:stop] and inside[start] not in _QUOTES:
                yield inside[start:stop]
