"""From messages to prompt tokens, by the chat template that the model brings along."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

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
    return "" if token == -1 else os.fsdecode(llama._model.token_get_text(token))
