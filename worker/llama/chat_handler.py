"""The library's hook between `create_chat_completion` and `create_completion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.chat.template import ChatTemplate, Prompt
from worker.engine.stream import CompletionStream
from worker.llama.library import llama_cpp
from worker.protocol import ContextLengthExceeded


class ChatStream:
    """What `create_chat_completion(stream=True)` gives: the library's chat chunks for whoever iterates it,
    and the completion underneath for an event loop, which must not block."""

    def __init__(self, completion: CompletionStream) -> None:
        self.completion = completion
        self._chunks: Any = llama_cpp.llama_chat_format._convert_completion_to_chat(completion, stream=True)  # type: ignore[arg-type]

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)


class ChatHandler:
    """Renders by the model's template, so that nobody forges a role; a `Prompt` is rendered already."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template

    def __call__(
        self,
        *,
        llama: llama_cpp.Llama,
        messages: Sequence[Mapping[str, Any]],
        stream: bool = False,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Any:
        for only_for_other_handlers in ("functions", "function_call", "tool_choice", "response_format"):
            options.pop(only_for_other_handlers, None)
        prompt = messages if isinstance(messages, Prompt) else self.template.prompt(messages, tools)
        alternatives = (top_logprobs or 0) if logprobs else None
        try:
            completion: Any = llama.create_completion(
                prompt.tokens, stream=stream, logprobs=alternatives, **options
            )
        except ContextLengthExceeded as error:
            raise error.of("messages") from None
        if stream:
            return ChatStream(completion)
        return llama_cpp.llama_chat_format._convert_completion_to_chat(completion, stream=False)
