"""What an answer is held to, token by token: llguidance over the model's own vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from worker.chat import lark
from worker.chat.schema.enforceable import LIMITS
from worker.engine.sampling import Row
from worker.protocol import InvalidRequest

MAX_DIGITS = 20  # of a number, in a row


@dataclass(frozen=True, slots=True)
class TokenTable:
    """A vocabulary as llguidance takes it.

    `tokens` are the bytes of each token, those of control tokens after a 0xFF; `control` has the ids of these
    by their text, and `ends` are all tokens that end an answer. The pointers are to llama.cpp's
    vocabulary and to a function as its `llama_tokenize`, which lives as long as its `owner`.
    """

    tokens: Sequence[bytes]
    control: Mapping[str, int]
    ends: Sequence[int]
    vocabulary_pointer: int
    tokenize_pointer: int
    owner: object = None


class ConstraintError(ValueError):
    """No answer can be held to this grammar; the message says why."""


class Constraints:
    """Makes constraints for one model. `read_table` is called once, when the first is asked for: with a large
    vocabulary that and what llguidance makes of it take a second.
    """

    def __init__(self, read_table: Callable[[], TokenTable]) -> None:
        self._read_table = read_table
        self._lock = Lock()

    def compile(self, grammar: str) -> Constraint:
        """From a grammar in Lark, whose first rule is `start`. Raises ConstraintError."""
        tokenizer, vocabulary = self._model
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), limits=LIMITS, log_level=0)
        constraint = Constraint(matcher, vocabulary)
        try:
            constraint.mask(np.zeros(len(vocabulary.tokens), np.float32))
        except InvalidRequest:
            raise ConstraintError(matcher.get_error().partition("\n")[0]) from None
        return constraint

    def control(self, text: str) -> str | None:
        """Lark's expression for a control token; None where the vocabulary has none of this text."""
        number = self._model[1].control.get(text)
        return None if number is None else f"<[{number}]>"

    def written(self, text: str) -> str:
        """Lark's expression for exactly this text, as the model writes it: control tokens are tokens."""
        parts = self._control.split(text) if self._control is not None else [text]
        return " ".join(self.control(part) or lark.literal(part) for part in parts if part)

    def until(self, name: str, text: str) -> str:
        """Lark's rule `name`: anything up to and with the first `text`, control tokens in it or not."""
        before, *rest = self._control.split(text, maxsplit=1) if self._control is not None else [text]
        if not rest:
            return f"{name}[lazy]: /(?s:.*){lark.escaped(text)}/"
        behind = f" {self.written(rest[1])}" if rest[1] else ""
        return f"{name}: /(?s:.*){lark.escaped(before)}/ {self.control(rest[0])}{behind}"

    @property
    def _model(self) -> tuple[LLTokenizer, _Vocabulary]:
        with self._lock:
            return self._built

    @cached_property
    def _built(self) -> tuple[LLTokenizer, _Vocabulary]:
        table = self._read_table()
        tokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # it is not in the stubs
            tokens=table.tokens,
            vocab_ptr=table.vocabulary_pointer,
            tokenize_fptr=table.tokenize_pointer,
            eos_token=table.ends,
        )
        self._owner = table.owner
        return tokenizer, _Vocabulary(table.tokens, table.control, table.ends[0])

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        texts = sorted(self._model[1].control, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None


class _Vocabulary:
    """What constraints ask of the tokens."""

    def __init__(self, tokens: Sequence[bytes], control: Mapping[str, int], end: int) -> None:
        self.tokens, self.control = tokens, control
        self.digits = np.array([token[:1].isdigit() for token in tokens])
        numbers = {token: number for number, token in enumerate(tokens)}
        self.after_number = [end, *(numbers[text] for text in (b",", b"}", b"]") if text in numbers)]
        self.letter = numbers.get(b"z", end)


class Constraint:
    """One answer under way: which tokens may come next, and which have to."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, num_digits: int = 0) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._bits = np.zeros((len(vocabulary.tokens) + 31) // 32, np.uint32)
        self._num_digits = num_digits  # at the end of what was written

    def copy(self) -> Constraint:
        """Another answer, from where this one is; the automaton behind both is shared."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary, self._num_digits)

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        if self._matcher.validate_tokens([token]) != 1:
            return False
        return not (self._vocabulary.digits[token] and self._ends_number)

    def mask(self, row: Row) -> None:
        """Set the logits of all forbidden tokens to -inf. Raises InvalidRequest if the grammar gives up."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=len(row), bitorder="little")
        row[allowed == 0] = -np.inf
        if self._ends_number:
            row[self._vocabulary.digits] = -np.inf

    def accept(self, token: int) -> None:
        """Go on with a token; one that ends the answer is the last."""
        self._matcher.consume_token(token)
        self._check()
        self._count_digits(token)

    def forced(self) -> list[int]:
        """The tokens that must come next, as good as accepted; none where there is a choice."""
        tokens = self._matcher.compute_ff_tokens()
        self._matcher.consume_tokens(tokens)
        self._check()
        for token in tokens:
            self._count_digits(token)
        return tokens

    def _count_digits(self, token: int) -> None:
        text = self._vocabulary.tokens[token]
        num_digits = len(text) - len(text.rstrip(b"0123456789"))
        self._num_digits = num_digits + (self._num_digits if num_digits == len(text) else 0)

    @property
    def _ends_number(self) -> bool:
        """Whether this is a number that may end and is long enough: no model shall idle in its zeros."""
        if self._num_digits < MAX_DIGITS or self._matcher.validate_tokens([self._vocabulary.letter]) == 1:
            return False
        return any(self._matcher.validate_tokens([token]) == 1 for token in self._vocabulary.after_number)

    def _check(self) -> None:
        # A grammar that has failed allows the end, which would pass for the end of a whole answer.
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise InvalidRequest(
                f"The answer cannot be held any longer to what was asked for: {reason}. Use a simpler schema."
            )
