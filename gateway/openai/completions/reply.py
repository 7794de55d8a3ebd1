"""Text completions as they go out: `text_completion`, whole or in chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.answers.whole import WholeAnswer
from gateway.openai.encoder import CompletionEncoder, CompletionUsage, Head, completion_usage, head
from worker.protocol import Event, Finished, FinishReason, TextDelta, TokenLogprob, Usage


class LegacyLogprobs(TypedDict):
    """Parallel lists; `text_offset` counts characters from the text's start. An echoed prompt's first token
    has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(Head):
    """Whole, or the data of one server-sent event."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[CompletionUsage | None]


class TextEncoder(CompletionEncoder):
    """Nothing introduces a text."""

    def __init__(self, model: str, num_choices: int, include_usage: bool) -> None:
        self._completion: TextCompletion = {
            **head("cmpl", model),
            "object": "text_completion",
            "choices": [],
            "usage": None,
        }
        self._offsets = [0] * num_choices
        super().__init__(self._completion, include_usage)

    def opening(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text(event)
            case Finished():
                return self.chunk(_choice(event.index, "", None, event.reason))
            case Usage():
                return self.usage(event)
            case _:
                return b""

    def whole(self, answer: WholeAnswer) -> bytes:
        choices = [
            _choice(index, "".join(choice.text), _logprobs(choice.logprobs, 0), choice.finish_reason)
            for index, choice in enumerate(answer.choices)
        ]
        body: TextCompletion = {
            **self._completion,
            "choices": choices,
            "usage": completion_usage(answer.usage),
        }
        return orjson.dumps(body)

    def _text(self, delta: TextDelta) -> bytes:
        offset = self._offsets[delta.index]
        self._offsets[delta.index] += len(delta.text)
        return self.chunk(_choice(delta.index, delta.text, _logprobs(delta.logprobs, offset), None))


def _choice(
    index: int, text: str, logprobs: LegacyLogprobs | None, finish_reason: FinishReason | None
) -> TextChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> LegacyLogprobs | None:
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [_logprob(token) for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": offsets,
    }


def _logprob(token: TokenLogprob) -> float | None:
    return None if math.isnan(token.logprob) else token.logprob


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    return None if math.isnan(token.logprob) else {top.token: top.logprob for top in (*token.top, token)}
