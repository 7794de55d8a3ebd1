"""All of llama.cpp's templates render every conversation that OpenAI's API allows, and show all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.sdist import template_files
from tests.worker.chat.families import (
    AGENTS,
    TOOLS,
    assistant,
    call,
    conversations,
    result,
    user,
    vocabulary_of,
)
from worker.chat.template import ChatTemplate, Prompt


@cache
def template(path: Path, folder: Path) -> ChatTemplate:
    source = path.read_text()
    return ChatTemplate(source, vocabulary_of(source, folder))


def shown(chat_template: ChatTemplate, prompt: Prompt) -> str:
    """As the model reads it, without the marks that JSON puts before quotes and line breaks."""
    text = chat_template._control.restore(prompt.text)
    return text.replace("\\n", "\n").replace('\\"', '"').replace("\\u00e9", "\u00e9")


def said(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> Iterator[str]:
    """Every text, name and value that has to be in the prompt, in any order."""
    for message in messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content or ()]
        for made in message.get("tool_calls", ()):
            yield made["function"]["name"]
            yield from _values(json.loads(made["function"]["arguments"]))
    for tool in tools or ():
        yield tool["function"]["name"]


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [key] if item is not None else []  # null is as good as left out
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_every_conversation_is_shown_whole(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    chat_template = template(path, tmp_path_factory.getbasetemp())
    for name, messages, tools in conversations():
        text = shown(chat_template, chat_template.prompt(messages, tools))
        missing = [part for part in said(messages, tools) if part.strip() not in text]
        assert missing == [], f"{name}: {text}"


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_calls_made_at_once_are_all_shown(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also where nothing but their number tells them apart."""
    twice = [call("call_1", "roll_dice", sides=771), call("call_2", "roll_dice", sides=771)]
    messages = [user("Roll"), assistant("", *twice), result("call_1", "three"), result("call_2", "five")]
    chat_template = template(path, tmp_path_factory.getbasetemp())
    text = shown(chat_template, chat_template.prompt(messages))
    assert text.count("771") == 2
    assert text.count("roll_dice") >= 2


# Whose templates have a place for calls; all others are told them as text.
NATIVE = {
    "Qwen-Qwen3-0.6B": "<tool_call>\n{",
    "meta-llama-Llama-3.1-8B-Instruct": '{"name": "get_weather", "parameters": {',
    "mistralai-Mistral-Nemo-Instruct-2407": '{"name": "get_weather", "arguments"',
    "openai-gpt-oss-120b": "to=functions.get_weather",
    "deepseek-ai-DeepSeek-V3.1": "<\uff5ctool\u2581call\u2581begin\uff5c>get_weather",
    "moonshotai-Kimi-K2": "<|tool_call_begin|>",
    "GigaChat3-10B-A1.8B": "function call",
    "MiniMax-M2": '<invoke name="get_weather">',
    "google-gemma-4-31B-it": "<|tool_call>call:get_weather{",
}


@pytest.mark.parametrize("stem", NATIVE)
@pytest.mark.parametrize("chat", ["text and call", "parallel", "one after the other"])
def test_calls_are_shown_as_the_family_writes_them(
    stem: str, chat: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = next(path for path in template_files() if path.stem == stem)
    chat_template = template(path, tmp_path_factory.getbasetemp())
    text = shown(chat_template, chat_template.prompt(AGENTS[chat], TOOLS))
    assert NATIVE[stem] in text
    assert text.count(NATIVE[stem]) >= sum(len(message.get("tool_calls", ())) for message in AGENTS[chat])


def renderings(chat_template: ChatTemplate, messages: list[dict[str, Any]]) -> tuple[int, int]:
    """How often the template is rendered, and how many look-ups that takes."""
    num_renderings = steps = 0
    render, environment = chat_template._template.render, chat_template._template._environment

    def counting(variables: Any) -> str:
        nonlocal num_renderings, steps
        num_renderings += 1
        text = render(variables)
        steps += environment.steps_taken
        return text

    chat_template._template.render = counting  # type: ignore[method-assign]
    try:
        chat_template.prompt(messages)
    finally:
        chat_template._template.render = render  # type: ignore[method-assign]
    return num_renderings, steps


# Which look at all earlier messages for each.
LOOPS_IN_LOOPS = {"google-gemma-4-31B-it"}


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_the_work_grows_with_the_conversation(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Twice as many messages are twice the look-ups, and no more renderings."""
    chat_template = template(path, tmp_path_factory.getbasetemp())
    few, many = ([user("One"), assistant("Two")] * number + [user("Three")] for number in (50, 100))
    (few_renderings, few_steps), (many_renderings, many_steps) = (
        renderings(chat_template, messages) for messages in (few, many)
    )
    assert many_renderings == few_renderings <= 12
    assert many_steps < (4 if path.stem in LOOPS_IN_LOOPS else 2.1) * few_steps
