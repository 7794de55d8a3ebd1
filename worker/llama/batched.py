"""BatchedLlama: llama-cpp-python's `Llama`, whose completions share one continuous batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worker.chat.choice import chat_template as choose_template
from worker.chat.constraint import Constraint, Constraints
from worker.chat.prepare import PreparedChat
from worker.engine.detokenizer import Detokenizer
from worker.engine.engine import Engine
from worker.engine.prefix_folder import PrefixFolder
from worker.engine.sampling import Row, Sampler
from worker.engine.sequence import Sequence
from worker.engine.stream import CompletionStream
from worker.llama.chat_handler import ChatHandler, ChatStream
from worker.llama.context import LlamaRunner
from worker.llama.cpu_variants import load_cpu_variant
from worker.llama.library import llama_cpp
from worker.llama.machine import available_cores
from worker.llama.memory import MIB, divide_memory
from worker.llama.recommended import recommended_sampling as recommended
from worker.llama.samplers import llama_chain
from worker.llama.slot_memory import measure_slot_memory
from worker.llama.state_identity import state_identity
from worker.llama.token_table import read_token_table
from worker.llama.vocabulary import LlamaVocabulary
from worker.protocol import ContextLengthExceeded, EngineStats, InvalidRequest, SamplingParams


class BatchedLlama(llama_cpp.Llama):
    """A model whose completions hundreds of threads or tasks may ask for at once, of chats or of text.

    `n_ctx` is the context of each sequence; `num_slots` sequences run at a time, or as many as fit into
    `memory_mb` MiB beside the model; `max_waiting` more queue. `cache_mb` MiB keep conversations that have
    lost their slots. `cache_dir` is a folder where prefixes that several requests began with outlast the
    process, in at most `cache_dir_mb` MiB. `chat_template`, a Jinja source, comes before what the model's
    file has; NoTemplate is raised for one that is not Jinja.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_ctx: int = 2048,
        num_slots: int | None = None,
        memory_mb: int | None = None,
        n_batch: int = 512,
        n_threads: int | None = None,
        max_waiting: int = 128,
        prefix_cache: bool = True,
        cache_mb: int | None = None,
        cache_dir: Path | None = None,
        cache_dir_mb: int = 2048,
        prompt_lookup: bool = True,
        recommended_sampling: bool = True,
        hang_seconds: float = math.inf,
        chat_template: str | None = None,
        kv_unified: bool = False,
        n_ubatch: int = 512,
        type_k: int | None = None,
        type_v: int | None = None,
        **kwargs: Any,
    ) -> None:
        # The parent's own context is not used for completions: as small as it can be.
        # A thread without a core of its own makes every barrier wait for it.
        n_threads = min(n_threads or available_cores(), available_cores())
        kwargs.setdefault("verbose", False)
        load_cpu_variant()
        super().__init__(
            model_path,
            n_ctx=256,
            n_batch=8,
            n_ubatch=8,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            **kwargs,
        )
        self._metadata = self._model.metadata()
        self.context_length = min(n_ctx or 1 << 31, self._model.n_ctx_train())
        slot_memory = measure_slot_memory(self._model, self._ctx.ctx)
        slot_bytes = slot_memory.num_bytes(self.context_length, n_ubatch)
        self.num_slots, cache_mb = divide_memory(
            self._model.size(), slot_bytes, memory_mb, num_slots, cache_mb if prefix_cache else 0
        )
        self.vocabulary = LlamaVocabulary(self._model, context_length=self.context_length)
        self.constraints = Constraints(partial(read_token_table, self._model, self.vocabulary))
        if self.chat_handler is None:
            template = choose_template(self.metadata, self.vocabulary, chat_template)
            self.chat_handler = ChatHandler(template, self.constraints)  # type: ignore[assignment]
        folder = None
        if prefix_cache and cache_dir is not None and cache_dir_mb:
            identity = state_identity(
                Path(model_path),
                n_ctx=self.context_length,
                kv_unified=kv_unified,
                type_k=type_k,
                type_v=type_v,
                kv_overrides=kwargs.get("kv_overrides"),
            )
            folder = PrefixFolder(cache_dir, identity, cache_dir_mb * MIB)
        runner = LlamaRunner(
            self._model,
            num_slots=self.num_slots,
            context_length=self.context_length,
            n_batch=n_batch,
            n_threads=n_threads,
            kv_unified=kv_unified,
            slot_memory=slot_memory,
            n_ubatch=n_ubatch,
            type_k=type_k,
            type_v=type_v,
        )
        self.engine = Engine(
            runner,
            self.vocabulary,
            max_waiting=max_waiting,
            prefix_cache=prefix_cache,
            cache_bytes=cache_mb * MIB,
            prefix_folder=folder,
            hang_seconds=hang_seconds,
            drafts=prompt_lookup and slot_memory.can_truncate,  # or a draft could not be taken back
        )
        self.engine.start()
        self.recommended = recommended(self.metadata) if recommended_sampling else {}

    @property
    def metadata(self) -> dict[str, str]:
        """What the model's file says of itself."""
        return self._metadata

    @metadata.setter
    def metadata(self, values: dict[str, str]) -> None:
        # The library would compile all templates as it starts, and fails on those that it cannot read.
        self._metadata = {key: value for key, value in values.items() if "chat_template" not in key}

    @property
    def alive(self) -> bool:
        return self.engine.alive

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def prefill_prefix(self, tokens: SequenceOf[int]) -> None:
        """Compute what every prompt begins with, and keep it for good."""
        self._check_tokens(tokens)
        self.engine.pin_prefix(list(tokens))

    def check_integrity(self) -> None:
        """Raise AssertionError when slots, sequences and cells do not agree."""
        self.engine.call(self.engine.check_integrity)

    def n_ctx(self) -> int:
        """The context of one sequence."""
        return getattr(self, "context_length", 0) or super().n_ctx()

    def close(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            engine.close()
            if not engine.has_ended:
                return  # it computes with this model still, or hangs in it
        super().close()

    def create_chat_completion(  # type: ignore[override]
        self, messages: SequenceOf[Mapping[str, Any]], **options: Any
    ) -> ChatStream | dict[str, Any]:
        """As the library's, and more of OpenAI's API: see ChatHandler for `options`.

        Tools, `tool_choice`, `response_format`, `n` and `reasoning_effort` do what they do there. What is
        left out is what the model's file recommends, otherwise OpenAI's default.
        """
        self.engine.check_alive()  # a closed model must not be asked to tokenize
        handler: Any = self.chat_handler
        answer: ChatStream | dict[str, Any] = handler(llama=self, messages=messages, **options)
        return answer

    def prepare_chat(self, messages: SequenceOf[Mapping[str, Any]], **options: Any) -> PreparedChat:
        """The prompt of `create_chat_completion` with these `options`, of which nothing is computed yet."""
        self.engine.check_alive()
        assert isinstance(self.chat_handler, ChatHandler)
        return self.chat_handler.prepared(messages, **options)

    def create_completion(  # type: ignore[override]
        self,
        prompt: str | list[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | SequenceOf[str] | None = None,
        stream: bool = False,
        tfs_z: float = 1.0,
        model: str | None = None,
        stopping_criteria: Any = None,
        logits_processor: Any = None,
        grammar: Constraint | None = None,
        logit_bias: Mapping[int, float] | Mapping[str, float] | None = None,
        client: str = "",
        **sampling: Any,
    ) -> dict[str, Any] | CompletionStream:
        """As the library's, on the shared batch; `sampling` are further fields of SamplingParams.

        What is left out is what the model's file recommends, otherwise OpenAI's default; `tfs_z` has no
        effect. Raises ContextLengthExceeded, Overloaded, InvalidRequest or WorkerFailed before anything is
        computed. With `echo` and `logprobs`, the prompt's log probabilities come before the text's, and a
        `max_tokens` of 0 is no text at all. Slots are shared fairly between `client`s, and computed
        prefixes not at all.
        """
        if suffix is not None:
            raise InvalidRequest("'suffix' is not supported.", "suffix")
        if grammar is not None and not isinstance(grammar, Constraint):
            raise InvalidRequest("A 'grammar' has to be what `constraints.compile` makes of Lark.", "grammar")
        self.engine.check_alive()  # a closed model must not be asked to tokenize
        tokens = self._prompt_tokens(prompt)
        room = self.context_length - len(tokens)
        if room <= 0:
            raise ContextLengthExceeded(self.context_length, len(tokens))
        params = SamplingParams(
            **{**self.recommended, **sampling},
            logit_bias={int(token): float(bias) for token, bias in (logit_bias or {}).items()},
            stop=_stop_strings(stop),
            max_tokens=max_tokens,
            logprobs=logprobs,
        )
        self._check_bias(params.logit_bias)
        scores_prompt = echo and logprobs is not None
        least = 0 if scores_prompt else 1
        sequence = Sequence(
            tokens,
            Sampler(
                params,
                constraint=None if grammar is None else grammar.copy(),
                chooser=llama_chain(params, self.vocabulary.size),
                last_n=self.last_n_tokens_size,
            ),
            Detokenizer(params.stop),
            max_tokens=room if max_tokens is None or max_tokens < least else min(max_tokens, room),
            scores_prompt=scores_prompt,
            client=client,
        )
        if logits_processor is not None:
            sequence.sampler.processor = _processor(logits_processor, sequence.tokens)
        sequence.stopping = _stopping(stopping_criteria)
        self.engine.submit(sequence)
        completion = CompletionStream(self.engine, sequence, model or self.model_path)
        if stream:
            return completion
        return completion.completion(echo=self._text(prompt) if echo else "")

    def count_tokens(self, text: str) -> int:
        return len(self.vocabulary.tokenize(text.encode(), True))

    def _prompt_tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            text, bos = prompt.encode(), self.vocabulary.bos
            self.vocabulary.check_fits(text)
            tokens = [] if bos is None else [bos]
            return tokens + self.vocabulary.tokenize(text, True) or [self.token_bos()]
        self._check_tokens(prompt)
        return list(prompt)

    def _check_tokens(self, tokens: SequenceOf[int]) -> None:
        if not tokens or min(tokens) < 0 or max(tokens) >= self.vocabulary.size:
            raise InvalidRequest("The prompt is empty or has tokens that the model does not know.", "prompt")

    def _check_bias(self, logit_bias: Mapping[int, float]) -> None:
        unknown = [token for token in logit_bias if not 0 <= token < self.vocabulary.size]
        if unknown:
            raise InvalidRequest(
                f"Token {unknown[0]} in 'logit_bias' is not in this model's vocabulary, whose ids go from 0 "
                f"to {self.vocabulary.size - 1}.",
                "logit_bias",
            )

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self.detokenize(prompt).decode("utf-8", "replace")


def _stop_strings(stop: str | SequenceOf[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) and stop else tuple(s for s in stop or () if s)


def _processor(processors: Any, tokens: list[int]) -> Callable[[Row], Row]:
    def process(row: Row) -> Row:
        for processor in processors:
            row = processor(np.asarray(tokens, np.intc), row)
        return row

    return process


def _stopping(criteria: Any) -> Callable[[list[int]], bool] | None:
    if not criteria:
        return None
    return lambda tokens: any(c(np.asarray(tokens, np.intc), np.empty(0, np.single)) for c in criteria)
