"""Chat templates for models that bring none, told by the tokens that their vocabularies have for roles."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_SOURCE = """\
{%- set begins, ends = BEGINS, ENDS %}
{%- for message in messages %}
{%- if message.role not in begins %}
{{- raise_exception("This template knows no role " ~ message.role) }}
{%- endif %}
{{- begins[message.role] + message.content + ends[message.role] }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- begins["assistant"] }}
{%- endif %}
"""
NO_TEMPLATE = """\
{{- raise_exception("the model brings none, and no tokens for roles that would tell its format. Serve it with
CHAT_TEMPLATE, the path of a Jinja template, or send it text to complete") }}
"""


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models writes each role's turns: what is before the text and what is behind it.

    Without `system` turns, the system message is part of the first user's.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str] | None = None
    tokens: tuple[str, ...] = ()  # all of which the vocabulary has; those that begin or end a turn
    first: str = ""

    @property
    def source(self) -> str:
        """A Jinja template. Results of tools are not its own role: they are told as what a user says."""
        turns: Mapping[str, tuple[str, str] | None] = {
            "system": self.system,
            "user": self.user,
            "assistant": self.assistant,
        }
        begins = {role: turn[0] for role, turn in turns.items() if turn}
        ends = {role: turn[1] for role, turn in turns.items() if turn}
        source = _SOURCE.replace("BEGINS", _literal(begins)).replace("ENDS", _literal(ends))
        return "{{- " + _literal(self.first) + " }}\n" + source if self.first else source


def _literal(value: object) -> str:
    """As JSON, which Jinja reads too."""
    return json.dumps(value, ensure_ascii=False)


def _same(begin: str, end: str, *tokens: str, assistant: str = "assistant") -> Family:
    """The same for every role, whose name stands where ROLE does."""
    system, user, model = ((begin.replace("ROLE", role), end) for role in ("system", "user", assistant))
    return Family(user, model, system, tokens)


CHATML = _same("<|im_start|>ROLE\n", "<|im_end|>\n", "<|im_start|>", "<|im_end|>")
# The first that fits is taken.
FAMILIES = (
    CHATML,
    _same(
        "<|start_header_id|>ROLE<|end_header_id|>\n\n",
        "<|eot_id|>",
        *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    _same(
        "<|header_start|>ROLE<|header_end|>\n\n",
        "<|eot|>",
        *("<|header_start|>", "<|header_end|>", "<|eot|>"),
    ),
    _same("<|turn>ROLE\n", "<turn|>\n", "<|turn>", "<turn|>", assistant="model"),
    Family(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        tokens=("<start_of_turn>", "<end_of_turn>"),
    ),
    _same(
        "<|start_of_role|>ROLE<|end_of_role|>",
        "<|end_of_text|>\n",
        *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    _same("<|start|>ROLE<|message|>", "<|end|>", "<|start|>", "<|message|>", "<|end|>"),
    Family(
        user=("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        assistant=("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        system=("<|im_system|>system<|im_middle|>", "<|im_end|>"),
        tokens=("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>"),
    ),
    Family(
        user=("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        assistant=("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        system=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        tokens=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    Family(
        user=("<\uff5cUser\uff5c>", ""),
        assistant=("<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
        tokens=("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    ),
    Family(
        user=("[INST]", "[/INST]"),
        assistant=("", "</s>"),
        system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        tokens=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "</s>"),
    ),
    Family(
        user=("[INST]", "[/INST]"),
        assistant=("", "</s>"),
        tokens=("[INST]", "[/INST]", "</s>"),
    ),
    # GLM
    Family(
        user=("<|user|>\n", ""),
        assistant=("<|assistant|>\n", ""),
        system=("<|system|>\n", ""),
        tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        first="[gMASK]<sop>",
    ),
    # Phi 3, then Zephyr
    _same("<|ROLE|>\n", "<|end|>\n", "<|user|>", "<|assistant|>", "<|end|>"),
    _same("<|ROLE|>\n", "</s>\n", "<|user|>", "<|assistant|>", "</s>"),
    _same("<|ROLE|>\n", "<|endoftext|>\n", "<|user|>", "<|assistant|>", "<|endoftext|>"),
)


def family_of(tokens: Collection[str]) -> Family | None:
    """The family whose tokens for roles a vocabulary has; None where it has none that are known."""
    return next((family for family in FAMILIES if set(family.tokens) <= set(tokens)), None)
