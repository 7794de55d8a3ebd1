"""gpt-oss from request to events: analysis is reasoning, commentary calls, final content; no markup stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sdist import sdist_folder
from tests.worker.chat.families import user, vocabulary_of
from worker.chat.constraint import Constraints
from worker.chat.options import Chat, Tool, ToolUse
from worker.chat.prepare import PreparedChat, prepare
from worker.chat.template import ChatTemplate
from worker.llama.token_table import read_token_table
from worker.llama.vocabulary import LlamaVocabulary
from worker.protocol import ReasoningDelta, TextDelta, ToolCallDelta

USE = ToolUse((Tool("get_weather", None, {"type": "object", "properties": {"city": {"type": "string"}}}),))
ANALYSIS = "<|channel|>analysis<|message|>User asks. Look it up.<|end|><|start|>assistant"
CALL = (
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Caf\u00e9"}<|call|>'
)
FINAL = "<|channel|>final<|message|>It is 5 < 7 \U0001f5fc.<|return|>"


def prepared(folder: Path, effort: str | None = None) -> tuple[PreparedChat, LlamaVocabulary]:
    source = (sdist_folder() / "models" / "templates" / "openai-gpt-oss-120b.jinja").read_text()
    vocabulary = vocabulary_of(source, folder)
    constraints = Constraints(lambda: read_token_table(SimpleNamespace(vocab=vocabulary._vocab), vocabulary))
    chat = Chat([user("How is it?")], USE, reasoning_effort=effort)
    return prepare(chat, ChatTemplate(source, vocabulary), constraints), vocabulary


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_the_model_is_told_how_much_to_reason(effort: str, tmp_path: Path) -> None:
    chat, _ = prepared(tmp_path, effort)
    assert f"Reasoning: {effort}" in chat.prompt.text
    assert chat.ignored == ()


@pytest.mark.parametrize(
    ("text", "thought", "content", "arguments"),
    [
        (ANALYSIS + CALL, "User asks. Look it up.", "", '{"city": "Caf\u00e9"}'),
        (ANALYSIS + FINAL, "User asks. Look it up.", "It is 5 < 7 \U0001f5fc.", ""),
        (FINAL, "", "It is 5 < 7 \U0001f5fc.", ""),
        (CALL, "", "", '{"city": "Caf\u00e9"}'),
    ],
)
def test_each_channel_reaches_its_own_field_token_by_token(
    text: str, thought: str, content: str, arguments: str, tmp_path: Path
) -> None:
    chat, vocabulary = prepared(tmp_path)
    reader = chat.reader(0)
    pieces = [vocabulary.piece(token) for token in vocabulary.tokenize(text.encode(), True)]
    written = b"".join(pieces).decode()
    events = [event for char in written for event in reader.feed(char)]
    last, reason = reader.finish("stop")
    events += last
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == thought
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == content
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(event.arguments for event in calls) == arguments
    assert [event.name for event in calls if event.name] == (["get_weather"] if arguments else [])
    assert reason == ("tool_calls" if arguments else "stop")
