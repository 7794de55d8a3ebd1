"""The worker: requests in, events out. What Modal's LlamaWorker and the in-process backend both call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from worker.chat.answer import Answer, PlainReader
from worker.chat.choice import NoTemplate
from worker.chat.defaults import NO_TEMPLATE
from worker.chat.messages import with_system_prompt
from worker.chat.template import ChatTemplate
from worker.embedding_service import EmbeddingWorker, load_embedding_model
from worker.engine.stream import CompletionStream
from worker.llama.batched import BatchedLlama
from worker.llama.chat_handler import ChatHandler
from worker.llama.cpu_variants import finds_gpu, loaded_variant
from worker.models.files import (
    LOCAL_ADVICE,
    ModelFileError,
    check_model_file,
    slow_type_notice,
)
from worker.models.header import model_kind
from worker.protocol import (
    Accepted,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Event,
    InvalidRequest,
    ModelInfo,
    Request,
    WorkerFailed,
    WorkerStats,
    WrongKind,
)
from worker.settings import WorkerSettings

log = logging.getLogger("worker")


def load_worker(settings: WorkerSettings, advice: str = LOCAL_ADVICE) -> Worker | EmbeddingWorker:
    """The worker that the model's kind needs, loaded once. Raises ModelFileError."""
    path = check_model_file(settings.model_path, advice)
    if model_kind(path) == "embedding":
        return EmbeddingWorker(load_embedding_model(path, settings, advice), settings)
    return Worker(load_llama(settings, advice), settings)


def load_llama(settings: WorkerSettings, advice: str = LOCAL_ADVICE) -> BatchedLlama:
    """The model, loaded once. Raises ModelFileError, with `advice` where another file is needed."""
    path = check_model_file(settings.model_path, advice)
    template = _template_file(settings.chat_template)
    started = time.perf_counter()
    on_gpu = settings.n_gpu_layers != 0 and finds_gpu()
    try:
        llama = BatchedLlama(
            str(path),
            n_ctx=settings.llm_ctx,
            num_slots=settings.llm_slots,
            # A GPU's memory is not what MEM_MB speaks of.
            memory_mb=None if on_gpu else settings.mem_mb,
            n_batch=settings.llm_n_batch,
            n_threads=settings.llm_threads,
            max_waiting=settings.llm_max_waiting,
            prefix_cache=settings.llm_prefix_cache,
            cache_mb=settings.llm_cache_mb,
            cache_dir=settings.llm_cache_dir,
            cache_dir_mb=settings.llm_cache_dir_mb,
            prompt_lookup=settings.llm_prompt_lookup,
            recommended_sampling=settings.llm_recommended_sampling,
            hang_seconds=settings.llm_hang_seconds,
            chat_template=template,
            n_gpu_layers=settings.n_gpu_layers,
            verbose=False,
        )
    except NoTemplate as error:
        what = (
            f"CHAT_TEMPLATE={settings.chat_template}"
            if settings.chat_template
            else f"The chat template in {path}"
        )
        raise ModelFileError(f"{what} is {error}. Set CHAT_TEMPLATE to the path of one.") from error
    except ValueError as error:
        raise ModelFileError(
            f"llama.cpp could not load {path}: the file is truncated, damaged, or of a kind that this "
            f"version does not know ({error}). Copy it again, or choose another. {advice}"
        ) from error
    except MemoryError as error:
        raise ModelFileError(
            f"{error}. Set fewer LLM_SLOTS, a smaller LLM_CTX, or serve a smaller model."
        ) from error
    loaded = time.perf_counter()
    if settings.llm_prefix_cache and settings.system_prompt:
        assert isinstance(llama.chat_handler, ChatHandler)
        if prefix := system_prefix(llama.chat_handler.template, settings.system_prompt):
            llama.prefill_prefix(prefix)
    log.info(
        "%s: %d slots of %d tokens, CPU variant %s; loaded in %.2f s, system prompt prefilled in %.2f s",
        *(path.name, llama.num_slots, llama.context_length, loaded_variant()),
        *(loaded - started, time.perf_counter() - loaded),
    )
    for notice in notices(settings, llama, on_gpu):
        log.warning(notice)
    return llama


def _template_file(path: Path | None) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ModelFileError(
            f"CHAT_TEMPLATE={path} cannot be read: {why}. Give the path of a Jinja template, or leave it out "
            "for the model's own."
        ) from error


def notices(settings: WorkerSettings, llama: BatchedLlama, on_gpu: bool) -> Iterator[str]:
    """What is not as the settings ask for, or could be better, each with what to do."""
    if settings.llm_slots and llama.num_slots < settings.llm_slots:
        yield (
            f"A memory of {settings.mem_mb} MiB holds {llama.num_slots} sequences of {llama.context_length} "
            f"tokens beside the model, not the LLM_SLOTS={settings.llm_slots} asked for. Set "
            f"LLM_SLOTS={llama.num_slots}, a smaller LLM_CTX, or more memory with MEM_MB."
        )
    if "llm_ctx" in settings.model_fields_set and llama.context_length < settings.llm_ctx:
        yield (
            f"LLM_CTX={settings.llm_ctx} is more than the model was trained for: a request has "
            f"{llama.context_length} tokens. Set LLM_CTX={llama.context_length} or serve another model."
        )
    if settings.n_gpu_layers and not on_gpu:
        yield (
            f"N_GPU_LAYERS={settings.n_gpu_layers} has no effect: this llama.cpp finds no GPU. Reinstall "
            "llama-cpp-python for yours (such as CMAKE_ARGS=-DGGML_CUDA=ON), or set N_GPU_LAYERS=0."
        )
    if slow_type := slow_type_notice(settings.model_path, llama.metadata):
        yield slow_type
    if isinstance(llama.chat_handler, ChatHandler):
        yield from _template_notices(llama.chat_handler.template)


def _template_notices(template: ChatTemplate) -> Iterator[str]:
    if template.source == NO_TEMPLATE:
        yield (
            "The model brings no chat template, and its tokens do not tell its family: chats are refused, "
            "only text is completed. Set CHAT_TEMPLATE to the path of a Jinja template."
        )
    elif not template.protects_roles:
        yield (
            "The chat template marks roles by plain text, not by tokens of the model's vocabulary: whoever "
            "writes a message can write what looks like another role's. Do not rely on the system prompt "
            "where users are not trusted."
        )


def system_prefix(template: ChatTemplate, system_prompt: str) -> list[int]:
    """The tokens that every prompt under the default system prompt begins with, whatever the user says.

    None of them if the template accepts no conversation at all.
    """
    try:
        one, other = (
            template.prompt(with_system_prompt([{"role": "user", "content": text}], system_prompt)).tokens
            for text in ("a", "1")
        )
    except InvalidRequest:
        return []
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


class Worker:
    """One model that writes, loaded once, answering many at a time."""

    def __init__(self, llama: BatchedLlama, settings: WorkerSettings) -> None:
        self._llama, self._settings = llama, settings
        self.model = ModelInfo(settings.served_name, int(time.time()), llama.context_length)

    @property
    def num_slots(self) -> int:
        return self._llama.num_slots

    @property
    def alive(self) -> bool:
        """False once the engine has ended: it does not start again, and every request would fail."""
        return self._llama.alive

    async def models(self) -> Sequence[ModelInfo]:
        return [self.model]

    async def check(self) -> None:
        if not self.alive:
            raise WorkerFailed("The engine has stopped; see the log for the reason, and restart the worker.")

    async def stats(self) -> Sequence[WorkerStats]:
        return [WorkerStats("local", self.model.id, self._llama.stats())]

    async def running_models(self) -> Sequence[str]:
        return [self.model.id]

    async def not_ready(self) -> Sequence[str]:
        """Why a request would not be answered now; nothing where it would."""
        stats, reasons = self._llama.stats(), []
        if stats.seconds_in_turn > self._settings.llm_stall_seconds:
            reasons.append(f"The engine has been in one step for {stats.seconds_in_turn:.0f} seconds.")
        if stats.num_running + stats.num_waiting >= stats.capacity:
            reasons.append(f"The queue is full: {stats.num_waiting} requests wait.")
        if not self.alive and not reasons:
            reasons.append("The engine has stopped.")
        return reasons

    async def chat(self, request: Request) -> AsyncGenerator[list[Event]]:
        """`Accepted`, then what accumulates, then `Usage`. Closing the generator frees the slots at once.

        Only `Accepted` where only tokens are counted.
        """
        if isinstance(request, ChatRequest) and request.count_only:
            yield [await asyncio.to_thread(self._count, request)]
            return
        answer = await self._submit(request)
        try:
            yield [Accepted(answer.prompt_tokens, answer.ignored)]
            async for events in answer.events():
                yield events
            yield [answer.usage()]
        finally:
            answer.abort()

    def close(self) -> None:
        self._llama.close()

    def _text(self, prompt: str | Sequence[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return self._llama.detokenize(list(prompt), special=True).decode("utf-8", "replace")

    async def _submit(self, request: Request) -> Answer:
        """Render, tokenise and queue, off the event loop: a long prompt takes milliseconds."""
        if isinstance(request, EmbeddingRequest):
            raise WrongKind(self.model.id, "chat")
        create: Any = self._create_chat if isinstance(request, ChatRequest) else self._create_completions
        submitting = asyncio.ensure_future(asyncio.to_thread(create, request))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_abort_created)
            raise

    def _count(self, request: ChatRequest) -> Accepted:
        prepared = self._llama.prepare_chat(**self._prompt_options(request))
        return Accepted(len(prepared.prompt.tokens), prepared.ignored)

    def _prompt_options(self, request: ChatRequest) -> dict[str, Any]:
        """Of `create_chat_completion`: what its prompt is made of, and its answer held to."""
        return {
            "messages": with_system_prompt(request.messages, self._settings.system_prompt),
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            "parallel_tool_calls": request.parallel_tool_calls,
            "response_format": request.response_format,
            "reasoning_effort": request.reasoning_effort,
            "chat_template_kwargs": request.template_kwargs,
            "continue_final_message": request.continues,
        }

    def _create_chat(self, request: ChatRequest) -> Answer:
        sampling = request.sampling.given()
        num_top = sampling.pop("logprobs")
        stream = self._llama.create_chat_completion(
            stream=True,
            n=request.n,
            logprobs=num_top is not None,
            top_logprobs=num_top,
            client=request.client,
            **self._prompt_options(request),
            **sampling,
        )
        assert isinstance(stream, Answer)
        return stream

    def _create_completions(self, request: CompletionRequest) -> Answer:
        answer = Answer(self._llama.count_tokens, num_each=request.n)
        sampling = request.sampling.given()
        seed = sampling.pop("seed")
        with answer.aborted_on_error():
            for number, prompt in enumerate(request.prompts):
                text_or_tokens = prompt if isinstance(prompt, str) else list(prompt)
                for index in range(request.n):
                    choice_seed = None if seed is None else seed + index  # choices differ, and repeat
                    stream = self._llama.create_completion(
                        text_or_tokens,
                        stream=True,
                        seed=choice_seed,
                        echo=request.echo,
                        client=request.client,
                        **sampling,
                    )
                    assert isinstance(stream, CompletionStream)
                    # The prompt's tokens are checked by now: one it does not know ends llama.cpp's process.
                    echo = self._text(prompt) if request.echo else ""
                    answer.add(stream, PlainReader(number * request.n + index, echo))
        return answer


def _abort_created(submitted: asyncio.Future[Answer]) -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().abort()
