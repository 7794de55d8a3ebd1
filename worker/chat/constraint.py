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


@dataclass(frozen=True, slots=True)
class TokenTable:
    """A vocabulary as llguidance takes it.

    `tokens` are the bytes of each token, those of control tokens after a 0xFF; `control` has the ids of these
    by their text, and `ends` are all tokens that end an answer. The pointers are llama.cpp's: to the
    vocabulary, and to `llama_tokenize`.
    """

    tokens: Sequence[bytes]
    control: Mapping[str, int]
    ends: Sequence[int]
    vocabulary_pointer: int
    tokenize_pointer: int


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
        tokenizer, table = self._model
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), limits=LIMITS, log_level=0)
        constraint = Constraint(matcher, len(table.tokens))
        try:
            constraint.mask(np.zeros(len(table.tokens), np.float32))
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
        """Lark's rule `name`: anything up to and with the first `text`, which may be a control token."""
        control = self.control(text)
        if control is not None:
            return f"{name}: /(?s:.*)/ {control}"
        return f"{name}[lazy]: /(?s:.*){lark.escaped(text)}/"

    @property
    def _model(self) -> tuple[LLTokenizer, TokenTable]:
        with self._lock:
            return self._built

    @cached_property
    def _built(self) -> tuple[LLTokenizer, TokenTable]:
        table = self._read_table()
        tokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # it is not in the stubs
            tokens=table.tokens,
            vocab_ptr=table.vocabulary_pointer,
            tokenize_fptr=table.tokenize_pointer,
            eos_token=table.ends,
        )
        return tokenizer, table

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        texts = sorted(self._model[1].control, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None


class Constraint:
    """One answer under way: which tokens may come next, and which have to."""

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((num_tokens + 31) // 32, np.uint32)
        self._num_tokens = num_tokens

    def copy(self) -> Constraint:
        """Another answer, from where this one is; the automaton behind both is shared."""
        return Constraint(self._matcher.deep_copy(), self._num_tokens)

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        return self._matcher.validate_tokens([token]) == 1

    def mask(self, row: Row) -> None:
        """Set the logits of all forbidden tokens to -inf. Raises InvalidRequest if the grammar gives up."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._num_tokens, bitorder="little")
        row[allowed == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Go on with a token; one that ends the answer is the last."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """The tokens that must come next, as good as accepted; none where there is a choice."""
        tokens = self._matcher.compute_ff_tokens()
        self._matcher.consume_tokens(tokens)
        self._check()
        return tokens

    def _check(self) -> None:
        # A grammar that has failed allows the end, which would pass for the end of a whole answer.
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise InvalidRequest(
                f"The answer cannot be held any longer to what was asked for: {reason}. Use a simpler schema."
            )
