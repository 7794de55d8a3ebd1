"""Which template a model is served with, and what becomes of models that bring none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.sdist import vocabulary_files
from tests.tiny_vocabulary import byte_pair_vocabulary, load
from tests.worker.chat.families import TOOLS, assistant, system, user
from worker.chat.choice import NoTemplate, chat_template
from worker.chat.defaults import FAMILIES, Family, family_of
from worker.chat.template import ChatTemplate, Prompt
from worker.protocol import InvalidRequest

CHAT = [system("Be brief."), user("One?"), assistant("Two."), user("Three?")]
PLAIN = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
WITH_TOOLS = PLAIN + "{{ tools | tojson }}"


def vocabulary(path: Path, *control: str) -> Any:
    return byte_pair_vocabulary(path / "v.gguf", control or ["<|im_start|>", "<|im_end|>"])


def restored(template: ChatTemplate, prompt: Prompt) -> str:
    return template._control.restore(prompt.text)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.tokens[0])
def test_a_model_without_a_template_gets_its_family_s(family: Family, tmp_path: Path) -> None:
    template = chat_template({}, vocabulary(tmp_path, *family.tokens))
    text = restored(template, template.prompt(CHAT))
    assert all(text.index("Be brief.") < text.index(said) for said in ("One?", "Two.", "Three?"))
    assert text.endswith(family.assistant[0])
    assert template.protects_roles


def test_it_ends_at_the_tokens_that_begin_and_end_turns(tmp_path: Path) -> None:
    """A base model goes on with the next role, which is no part of the answer."""
    gemma = vocabulary(tmp_path, "<start_of_turn>", "<end_of_turn>")
    chat_template({}, gemma)
    for token in ("<start_of_turn>", "<end_of_turn>"):
        assert gemma.is_end(gemma.tokenize(token.encode(), True)[0])


def test_more_specific_families_come_first() -> None:
    all_tokens = {token for family in FAMILIES for token in family.tokens}
    assert family_of(all_tokens) == FAMILIES[0]
    for number, family in enumerate(FAMILIES):
        earlier = [other for other in FAMILIES[:number] if set(other.tokens) <= set(family.tokens)]
        assert earlier == [], "would never be chosen"


@pytest.mark.parametrize(
    ("stem", "token"), [("qwen2", "<|im_start|>"), ("llama-bpe", "<|eot_id|>"), ("phi-3", "<|end|>")]
)
def test_real_vocabularies_tell_their_family(stem: str, token: str) -> None:
    path = next(path for path in vocabulary_files() if path.stem == f"ggml-vocab-{stem}")
    assert token in chat_template({}, load(path)).prompt(CHAT).text


def test_where_nothing_tells_the_family_chats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    template = chat_template({}, vocabulary(tmp_path, "<s>"))
    with pytest.raises(InvalidRequest, match="CHAT_TEMPLATE"):
        template.prompt(CHAT)


def test_a_template_for_tools_is_used_where_there_are_tools(tmp_path: Path) -> None:
    metadata = {"tokenizer.chat_template": PLAIN, "tokenizer.chat_template.tool_use": WITH_TOOLS}
    template = chat_template(metadata, vocabulary(tmp_path))
    assert template.knows_tools
    assert "tools" in template.variables
    assert "get_weather" not in template.prompt(CHAT).text
    prompt = template.prompt(CHAT, TOOLS)
    assert '"name": "get_weather"' in prompt.text
    assert prompt.form == template.for_tools.form


def test_a_given_template_comes_before_the_model_s_own(tmp_path: Path) -> None:
    metadata = {"tokenizer.chat_template": "{{ raise_exception('own') }}"}
    prompt = chat_template(metadata, vocabulary(tmp_path), PLAIN).prompt(CHAT)
    assert "own" not in prompt.text


@pytest.mark.parametrize("source", ["{% for %}", "{{ 1 | no_such_filter }}", "{% if x %}"])
def test_what_is_not_jinja_is_told_with_its_line(source: str, tmp_path: Path) -> None:
    with pytest.raises(NoTemplate, match="not a Jinja template: line 1: "):
        chat_template({}, vocabulary(tmp_path), source)


@pytest.mark.parametrize(
    ("source", "protected"),
    [
        ("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}{% endfor %}<|im_start|>", True),
        ("{% for m in messages %}\n\n{{ m.role }}: {{ m.content }}{% endfor %}\n\nassistant:", False),
        ("{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}", False),  # which is no token here
        ("{% for t in tools %}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}", False),
    ],
)
def test_roles_that_are_plain_text_are_noticed(source: str, protected: bool, tmp_path: Path) -> None:
    assert chat_template({}, vocabulary(tmp_path), source).protects_roles is protected
