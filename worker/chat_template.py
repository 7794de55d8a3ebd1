"""From messages to prompt tokens, by the chat template that the model brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter, _convert_completion_to_chat

from worker.completion import CompletionStream
from worker.protocol import InvalidRequest

# For models whose GGUF brings no template: ChatML, the most widely used one.
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


class ChatTemplate:
    """Renders with the library's own Jinja environment."""

    def __init__(self, llama: llama_cpp.Llama) -> None:
        self._llama = llama
        self._formatter = Jinja2ChatFormatter(
            template=llama.metadata.get("tokenizer.chat_template", CHATML),
            bos_token=_token_text(llama, llama.token_bos()),
            eos_token=_token_text(llama, llama.token_eos()),
        )

    def tokens(self, messages: Sequence[Mapping[str, Any]], **template_kwargs: Any) -> list[int]:
        """The prompt's token ids. Raises InvalidRequest with the template's own words if it refuses."""
        try:
            rendered = self._formatter(messages=list(messages), **template_kwargs).prompt  # type: ignore[arg-type]
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise InvalidRequest(
                f"The model's chat template refused these messages: {error}",
                "messages",
                "chat_template_error",
            ) from error
        return self._llama.tokenize(rendered.encode(), add_bos=False, special=True)


def _token_text(llama: llama_cpp.Llama, token: int) -> str:
    return "" if token == -1 else llama._model.token_get_text(token)


class ChatStream:
    """What `create_chat_completion(stream=True)` gives: the library's chat chunks for whoever iterates it,
    and the completion underneath for an event loop, which must not block."""

    def __init__(self, completion: CompletionStream) -> None:
        self.completion = completion
        self._chunks = _convert_completion_to_chat(completion, stream=True)

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)


class ChatHandler:
    """The library's hook between `create_chat_completion` and `create_completion`."""

    def __init__(self, llama: llama_cpp.Llama) -> None:
        self._template = ChatTemplate(llama)

    def __call__(
        self,
        *,
        llama: llama_cpp.Llama,
        messages: Sequence[Mapping[str, Any]],
        stream: bool = False,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        template_only = {name: options.pop(name, None) for name in ("functions", "function_call", "tools")}
        template_only |= {"tool_choice": options.pop("tool_choice", None), **(chat_template_kwargs or {})}
        options.pop("response_format", None)
        completion = llama.create_completion(
            self._template.tokens(messages, **template_only),
            stream=stream,
            logprobs=(top_logprobs or 0) if logprobs else None,
            **options,
        )
        if stream:
            return ChatStream(completion)
        return _convert_completion_to_chat(completion, stream=False)
