"""What `create_completion` hands back: a stream for threads and event loops, and the library's shapes."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from worker.engine.engine import Engine
from worker.engine.sequence import Output, Sequence
from worker.protocol import FinishReason, Timings, TokenLogprob


class CompletionStream:
    """One completion under way.

    Iterated synchronously it gives chunks as llama-cpp-python does; asynchronously, what has come since the
    last output, an error included. Dropping it or `abort()` frees its slot within one step.
    """

    def __init__(self, engine: Engine, sequence: Sequence, model: str) -> None:
        self.id = f"cmpl-{uuid.uuid4()}"
        self.created = int(time.time())
        self.model = model
        self._engine = engine
        self._sequence = sequence
        self._offset = 0
        self._ended = False
        self._final: dict[str, Any] | None = None

    @property
    def prompt_tokens(self) -> int:
        return self._sequence.num_prompt

    @property
    def cached_tokens(self) -> int:
        return self._sequence.num_cached

    @property
    def completion_tokens(self) -> int:
        return self._sequence.num_output

    @property
    def timings(self) -> Timings:
        """What has passed by now, where it has not ended."""
        sequence = self._sequence
        ended = sequence.ended or time.monotonic()
        first_token = sequence.first_token or ended
        admitted = sequence.admitted or first_token
        return Timings(admitted - sequence.arrived, first_token - admitted, ended - first_token)

    def abort(self) -> None:
        """Stop generating; never blocks, from any thread, any number of times."""
        if not self._ended:
            self._ended = True
            self._engine.abort(self._sequence)

    close = abort

    def __del__(self) -> None:
        self.abort()

    def outputs(self) -> Iterator[Output]:
        """Block for each output; raises the error that ended the completion, if one did."""
        while not self._ended:
            item = self._sequence.channel.take(threading.Event)
            if isinstance(item, Output):
                self._note(item)
                if item.error is not None:
                    raise item.error
                yield item
            elif isinstance(item, threading.Event):
                item.wait()
            else:
                self._ended = True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        # The library drops the text of a chunk that has a finish_reason, so that one comes by itself.
        if self._final is not None:
            final, self._final = self._final, None
            return final
        output = next(self.outputs())
        logprobs = self._logprobs(output.logprobs)
        self._offset += len(output.text)
        if output.finish_reason is None:
            return self.chunk(output.text, logprobs)
        final = self.chunk("", None, output.finish_reason)
        if not output.text and not output.logprobs:
            return final
        self._final = final
        return self.chunk(output.text, logprobs)

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        loop = asyncio.get_running_loop()
        while not self._ended:
            item = self._sequence.channel.take(loop.create_future)
            if isinstance(item, Output):
                self._note(item)
                return item
            if item is None:
                self._ended = True
            else:
                assert isinstance(item, asyncio.Future)
                await item
        raise StopAsyncIteration

    def completion(self, echo: str = "") -> dict[str, Any]:
        """Wait for the end, and give the whole as the library does."""
        text, reason = "", None
        logprobs: tuple[TokenLogprob, ...] = ()
        for output in self.outputs():
            text += output.text
            logprobs += output.logprobs
            reason = output.finish_reason
        result = self.chunk(echo + text, self._logprobs(logprobs), reason)
        result["usage"] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        return result

    def chunk(
        self, text: str, logprobs: dict[str, Any] | None, reason: FinishReason | None = None
    ) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        }

    def _note(self, output: Output) -> None:
        self._ended = output.finish_reason is not None or output.error is not None

    def _logprobs(self, entries: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not entries:
            return None
        offsets, offset = [], self._offset
        for entry in entries:
            offsets.append(offset)
            offset += len(entry.token)
        return {
            "tokens": [entry.token for entry in entries],
            "text_offset": offsets,
            "token_logprobs": [None if math.isnan(entry.logprob) else entry.logprob for entry in entries],
            "top_logprobs": [
                None if math.isnan(entry.logprob) else {t.token: t.logprob for t in (*entry.top, entry)}
                for entry in entries
            ],
        }
