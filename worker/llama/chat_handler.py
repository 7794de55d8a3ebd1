"""`create_chat_completion`: the library's hook, and everything that a chat needs behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.chat import options
from worker.chat.answer import Answer
from worker.chat.completion import chat_completion, chat_completion_chunks
from worker.chat.constraint import Constraint, Constraints
from worker.chat.options import Chat, ToolChoice
from worker.chat.prepare import PreparedChat, prepare
from worker.chat.template import ChatTemplate
from worker.engine.stream import CompletionStream
from worker.protocol import ContextLengthExceeded, InvalidRequest


@dataclass(slots=True)
class ChatStream(Answer):
    """What `create_chat_completion(stream=True)` gives: OpenAI's chunks for whoever iterates it, and
    `events()` for an event loop, which must not block."""

    model: str = ""
    _chunks: Iterator[dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._chunks is None:
            # Of the choices, not of this object: a cycle would keep their slots until it is collected.
            self._chunks = chat_completion_chunks(self.choices, self.model)
        return next(self._chunks)


class ChatHandler:
    """Renders by the model's template so that nobody forges a role, holds the answer to tools and formats,
    and reads thinking and calls from what the model writes."""

    def __init__(self, template: ChatTemplate, constraints: Constraints) -> None:
        self.template, self.constraints = template, constraints

    def __call__(
        self,
        *,
        llama: Any,
        messages: Sequence[Mapping[str, Any]],
        stream: bool = False,
        n: int = 1,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = None,
        parallel_tool_calls: bool = True,
        response_format: Mapping[str, Any] | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        functions: Any = None,
        function_call: Any = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        grammar: Constraint | None = None,
        **sampling: Any,
    ) -> ChatStream | dict[str, Any]:
        """OpenAI's parameters of these names; the rest goes to `create_completion` as it is.

        Raises InvalidRequest, ContextLengthExceeded, Overloaded or WorkerFailed before anything is computed.
        """
        if functions or function_call:
            raise InvalidRequest("'functions' are deprecated: send them as 'tools'.", "functions")
        prepared = self.prepared(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            reasoning_effort=reasoning_effort,
            chat_template_kwargs=chat_template_kwargs,
            continue_final_message=continue_final_message,
            context_length=llama.n_ctx(),
        )
        model = sampling.get("model") or llama.model_path
        answer = ChatStream(llama.count_tokens, prepared.ignored, num_each=n, model=model)
        with answer.aborted_on_error():
            for index in range(n):
                completion: CompletionStream = llama.create_completion(
                    prepared.prompt.tokens,
                    stream=True,
                    grammar=prepared.constraint or grammar,
                    logprobs=(top_logprobs or 0) if logprobs else None,
                    max_tokens=max_tokens,
                    seed=None if seed is None else seed + index,  # choices differ, and repeat
                    **sampling,
                )
                answer.add(completion, prepared.reader(index))
        return answer if stream else chat_completion(answer, model)

    def prepared(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = None,
        parallel_tool_calls: bool = True,
        response_format: Mapping[str, Any] | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        context_length: int | None = None,
    ) -> PreparedChat:
        """The prompt, and what its answer is held to. ContextLengthExceeded says what the tools take."""
        chat = Chat(
            messages,
            options.tool_use(tools, tool_choice, parallel_tool_calls),
            options.response_format(response_format),
            reasoning_effort,
            continue_final_message,
            chat_template_kwargs or {},
        )
        try:
            prepared = prepare(chat, self.template, self.constraints)
            if context_length is not None and len(prepared.prompt.tokens) >= context_length:
                raise ContextLengthExceeded(context_length, len(prepared.prompt.tokens), "messages")
        except ContextLengthExceeded as error:
            raise self._beside_tools(error, chat) from None
        return prepared

    def _beside_tools(self, error: ContextLengthExceeded, chat: Chat) -> ContextLengthExceeded:
        """With how long the prompt is without its tools, if that can be told."""
        if chat.tool_use is None:
            return error
        try:
            alone = prepare(replace(chat, tool_use=None), self.template, self.constraints)
        except InvalidRequest:
            return error
        return error.beside_tools(len(alone.prompt.tokens))
