"""The worker's events in the shapes of OpenAI's legacy text completions."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.translate import Collector, Reply, data, unfinished, usage_body
from worker.protocol import Event, Finished, FinishReason, TextDelta, TokenLogprob, Usage


def text_reply(model: str) -> Reply:
    """Whole or in chunks, the object has the same name."""
    return Reply(model, "text_completion", id=f"cmpl-{secrets.token_hex(12)}")


@dataclass(slots=True)
class TextChunkEncoder:
    """Events to the bytes of an SSE stream."""

    reply: Reply
    include_usage: bool
    _unfinished: set[int] = field(default_factory=set)
    _offsets: dict[int, int] = field(default_factory=dict)

    def opening(self, num_choices: int) -> bytes:
        """Nothing introduces a text."""
        self._unfinished = set(range(num_choices))
        return b""

    def encode(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._event(event) for event in events)

    def check_complete(self) -> None:
        if self._unfinished:
            raise unfinished()

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                offset = self._offsets.get(event.index, 0)
                self._offsets[event.index] = offset + len(event.text)
                return self._frame([choice(event.index, event.text, logprobs(event.logprobs, offset), None)])
            case Finished():
                self._unfinished.discard(event.index)
                return self._frame([choice(event.index, "", None, event.reason)])
            case Usage() if self.include_usage:
                return data(self.reply.frame([], usage_body(event)))
            case _:
                return b""

    def _frame(self, choices: list[dict[str, Any]]) -> bytes:
        frame = self.reply.frame(choices)
        if not self.include_usage:
            del frame["usage"]
        return data(frame)


def text_completion(collector: Collector, reply: Reply) -> dict[str, Any]:
    choices = [
        choice(index, collector.text(index), logprobs(collected.logprobs, 0), collected.finish_reason)
        for index, collected in enumerate(collector.choices)
    ]
    return reply.frame(choices, usage_body(collector.usage))


def choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: FinishReason | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    """Parallel lists, as the legacy API has them; `text_offset` counts characters from the text's start."""
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in (*token.top, token)} for token in tokens],
        "text_offset": offsets,
    }
