"""Keeps what users write from becoming control tokens: nobody forges a role by typing `<|im_start|>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

_FIRST, _LAST = 0xF0000, 0xFFFFD  # a private-use plane: no template and no filter has a use for these
_PLACEHOLDER = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
# Tokens that the vocabulary calls user-defined are matched in plain text too. Those that look like markup
# and that the template uses carry roles (Qwen's `<tool_response>`); the others are text (Gemma's `\\n\\n`).
_MARKUP = re.compile(r"[<\[]\S+[>\]]")

# Control tokens that tell where reasoning and tool calls begin and end; other parts of the worker read them.
SHOWN = frozenset(
    {
        "<think>",
        "</think>",
        "[THINK]",
        "[/THINK]",
        "<tool_call>",
        "</tool_call>",
        "<|tool_call|>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[CALL_ID]",
        "[ARGS]",
    }
)

Tokenize = Callable[[bytes, bool], list[int]]  # text, whether control tokens are parsed


class ChatVocabulary(Protocol):
    """What the chat needs to know of a model's tokens.

    `bos` is None where prompts do not begin with one; texts are "" where the vocabulary has no such token.
    """

    bos: int | None
    bos_text: str
    eos_text: str

    def tokenize(self, text: bytes, special: bool) -> list[int]:
        """Token ids; control tokens are recognised in `text` only with `special`."""
        ...

    def control_tokens(self) -> Sequence[str]: ...

    def user_defined_tokens(self) -> Sequence[str]: ...


class ControlTokens:
    """The control tokens of one vocabulary, as they might be written in a message."""

    def __init__(self, control: Iterable[str], user_defined: Iterable[str] = ()) -> None:
        self._user_defined = frozenset(user_defined)
        texts = sorted({*control, *self._user_defined}, key=len, reverse=True)
        whole = "|".join(map(re.escape, texts))
        # Also halves of a token at a string's edges: a template might join two strings into one token.
        heads = "|".join(map(re.escape, _parts(text[:end] for text in texts for end in range(2, len(text)))))
        tails = "|".join(
            map(re.escape, _parts(text[start:] for text in texts for start in range(1, len(text) - 1)))
        )
        private = _PLACEHOLDER.pattern
        patterns = [private, whole, *([rf"\A\s*(?:{tails})", rf"(?:{heads})(?=\s*\Z)"] if texts else [])]
        self._forged = re.compile("|".join(pattern for pattern in patterns if pattern))

    @classmethod
    def of(cls, vocabulary: ChatVocabulary, template: str) -> ControlTokens:
        control = (text for text in vocabulary.control_tokens() if text.strip())
        used = (
            text for text in vocabulary.user_defined_tokens() if text in template and _MARKUP.fullmatch(text)
        )
        return cls(control, used)

    def hide(self, value: Any, literals: Literals) -> Any:
        """`value` with a placeholder for each control token in any of its strings, however deep."""
        if isinstance(value, str):
            return self._forged.sub(lambda match: literals.placeholder(match.group()), value)
        if isinstance(value, Mapping):
            return {self.hide(key, literals): self.hide(item, literals) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.hide(item, literals) for item in value]
        return value

    def tokenize(self, rendered: str, literals: Literals, tokenize: Tokenize) -> list[int]:
        """Token ids of a rendered prompt; what a placeholder stands for becomes plain text.

        Without placeholders, that is one call for the whole prompt: exactly what the template meant.
        """
        tokens: list[int] = []
        end = 0
        for match in _PLACEHOLDER.finditer(rendered):
            tokens += _tokens(rendered[end : match.start()], True, tokenize)
            tokens += self._plain(literals.text(match.group()), tokenize)
            end = match.end()
        return tokens + _tokens(rendered[end:], True, tokenize)

    def _plain(self, text: str, tokenize: Tokenize) -> list[int]:
        # Only cut in two is a user-defined token not recognised.
        if text in self._user_defined:
            return _tokens(text[:1], False, tokenize) + _tokens(text[1:], False, tokenize)
        return _tokens(text, False, tokenize)


class Literals:
    """What each placeholder in one prompt stands for."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def placeholder(self, text: str) -> str:
        number = self._numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return chr(_FIRST + number)

    def text(self, placeholder: str) -> str:
        return self._texts[ord(placeholder) - _FIRST]

    def restore(self, text: str) -> str:
        """`text` as it was before its placeholders."""
        return _PLACEHOLDER.sub(lambda match: self.text(match.group()), text)


def _parts(parts: Iterable[str]) -> list[str]:
    return sorted(set(parts), key=len, reverse=True)


def _tokens(text: str, special: bool, tokenize: Tokenize) -> list[int]:
    return tokenize(text.encode(), special) if text else []
