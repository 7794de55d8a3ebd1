"""The worker's events in the shapes of OpenAI's legacy text completions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.openai.chat.reply import Collector, Reply, StreamEncoder, usage_body
from worker.protocol import Event, Finished, FinishReason, TextDelta, TokenLogprob


def text_reply(model: str) -> Reply:
    """Whole or in chunks, the object has the same name."""
    return Reply(model, "text_completion", id=f"cmpl-{secrets.token_hex(12)}")


@dataclass(slots=True)
class TextChunkEncoder(StreamEncoder):
    """`text_completion` in pieces; nothing introduces a text."""

    _offsets: dict[int, int] = field(default_factory=dict)

    def _start(self, index: int) -> bytes:
        return b""

    def _piece(self, event: Event) -> bytes:
        if not isinstance(event, TextDelta):
            return b""
        offset = self._offsets.get(event.index, 0)
        self._offsets[event.index] = offset + len(event.text)
        return self._chunk(choice(event.index, event.text, logprobs(event.logprobs, offset), None))

    def _end(self, finished: Finished) -> bytes:
        return self._chunk(choice(finished.index, "", None, finished.reason))


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
