"""The worker: chat requests in, events out. What Modal's LlamaWorker and the in-process backend both call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from worker.llama import BatchedLlama, CompletionStream, Output
from worker.models import ModelFileError, check_model_file
from worker.protocol import (
    Accepted,
    ChatRequest,
    Event,
    Finished,
    ModelInfo,
    SamplingParams,
    TextDelta,
    Usage,
    WorkerFailed,
)
from worker.settings import WorkerSettings


def load_llama(settings: WorkerSettings) -> BatchedLlama:
    """The model, loaded once. Raises ModelFileError with a sentence that says what to do."""
    path = check_model_file(settings.model_path)
    try:
        return BatchedLlama(
            str(path),
            n_ctx=settings.llm_ctx,
            num_slots=settings.llm_slots,
            memory_mb=settings.mem_mb,
            n_batch=settings.llm_n_batch,
            n_threads=settings.llm_threads,
            max_waiting=settings.llm_max_waiting,
            prefix_cache=settings.llm_prefix_cache,
            n_gpu_layers=settings.n_gpu_layers,
            verbose=False,
        )
    except ValueError as error:
        raise ModelFileError(
            f"llama.cpp could not load {path}: the file is truncated, damaged, or of a kind that this "
            f"version does not know. Copy it again or choose another with MODEL=PATH. ({error})"
        ) from error


class Worker:
    """One model, loaded once, answering many at a time."""

    def __init__(self, llama: BatchedLlama, settings: WorkerSettings) -> None:
        self._llama, self._settings = llama, settings
        self.model = ModelInfo(settings.served_name, int(time.time()), llama.context_length)

    async def models(self) -> Sequence[ModelInfo]:
        return [self.model]

    async def check(self) -> None:
        if not self._llama.alive:
            raise WorkerFailed("The engine has stopped; see the log for the reason, and restart the worker.")

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        """`Accepted`, then what accumulates, then `Usage`. Closing the generator frees the slots at once."""
        streams = await self._submit(request)
        try:
            yield [Accepted(streams[0].prompt_tokens)]
            if len(streams) == 1:
                async for outputs in streams[0]:
                    yield _events(0, outputs)
            else:
                async for events in _merged(streams):
                    yield events
            yield [_usage(streams)]
        finally:
            for stream in streams:
                stream.abort()

    def close(self) -> None:
        self._llama.close()

    async def _submit(self, request: ChatRequest) -> list[CompletionStream]:
        """Render, tokenise and queue, off the event loop: a long prompt takes milliseconds."""
        submitting = asyncio.ensure_future(asyncio.to_thread(self._create, request))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_abort_created)
            raise

    def _create(self, request: ChatRequest) -> list[CompletionStream]:
        messages = with_system_prompt(request.messages, self._settings.system_prompt)
        streams: list[CompletionStream] = []
        try:
            for index in range(request.n):
                sampling = completion_kwargs(request.sampling, index)
                streams.append(self._llama.create_chat_completion(messages, stream=True, **sampling))
        except BaseException:
            for stream in streams:
                stream.abort()
            raise
        return streams


def with_system_prompt(messages: Sequence[Any], system_prompt: str) -> list[Any]:
    """The default system prompt, where the client sent none."""
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def completion_kwargs(sampling: SamplingParams, index: int) -> dict[str, Any]:
    """llama-cpp-python's names; the choices of a seeded request differ, and repeat."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()} or None,
        "seed": None if sampling.seed is None else sampling.seed + index,
        "stop": list(sampling.stop),
        "max_tokens": sampling.max_tokens,
        "logprobs": sampling.logprobs is not None,
        "top_logprobs": sampling.logprobs,
    }


def _events(index: int, outputs: Sequence[Output]) -> list[Event]:
    events: list[Event] = []
    for output in outputs:
        if output.error is not None:
            raise output.error
        if output.text or output.logprobs:
            events.append(TextDelta(index, output.text, output.logprobs))
        if output.finish_reason is not None:
            events.append(Finished(index, output.finish_reason))
    return events


async def _merged(streams: Sequence[CompletionStream]) -> AsyncGenerator[list[Event]]:
    """The events of several choices, as they come."""
    queue: asyncio.Queue[list[Event] | None] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async for outputs in streams[index]:
                queue.put_nowait(_events(index, outputs))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(index)) for index in range(len(streams))]
    try:
        running = len(tasks)
        while running:
            events = await queue.get()
            if events is None:
                running -= 1
            else:
                yield events
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def _usage(streams: Sequence[CompletionStream]) -> Usage:
    """The prompt is counted once, as OpenAI does, whatever the number of choices."""
    return Usage(
        prompt_tokens=streams[0].prompt_tokens,
        completion_tokens=sum(stream.completion_tokens for stream in streams),
        cached_tokens=streams[0].cached_tokens,
    )


def _abort_created(submitted: asyncio.Future[list[CompletionStream]]) -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        for stream in submitted.result():
            stream.abort()
