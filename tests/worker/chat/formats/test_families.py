"""Every family's thinking, answers and calls are read however they are cut, and held to what it writes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sdist import sdist_folder
from tests.worker.chat.families import vocabulary_of
from tests.worker.chat.formats.families import FAMILIES, FULL, TOOLS, Family, Outcome, written_by
from worker.chat.constraint import Constraints
from worker.chat.formats.families import choose
from worker.chat.formats.parts import CallArguments, CallEnded, CallStarted, Content, Thought
from worker.chat.formats.reader import FormatReader
from worker.chat.formats.record import Format
from worker.chat.options import Chat, Tool, ToolUse
from worker.chat.prepare import prepare
from worker.chat.template import ChatTemplate
from worker.llama.token_table import read_token_table

CASES = [(template, family) for family in FAMILIES.values() for template in family.templates]
IDS = [template for template, _ in CASES]


def source_of(template: str) -> str:
    return (sdist_folder() / "models" / "templates" / f"{template}.jinja").read_text()


def read(form: Format, chunks: list[str]) -> Outcome:
    reader = FormatReader(form, TOOLS)
    parts = [part for chunk in chunks for part in reader.feed(chunk)] + reader.finish()
    thought = content = ""
    calls: list[tuple[str, str]] = []
    whole = True
    for part in parts:
        match part:
            case Thought(text):
                thought += text
            case Content(text):
                content += text
            case CallStarted(name):
                calls.append((name, ""))
            case CallArguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case CallEnded(complete):
                whole = whole and complete
    made = [(name, json.loads(text) if whole else {}) for name, text in calls]
    return Outcome(thought, content.strip(), made, whole)


def cuts(text: str) -> list[list[str]]:
    """Whole, by character, and at random."""
    ways = [[text], list(text)]
    for seed in range(4):
        edges = sorted(random.Random(seed).sample(range(len(text) + 1), min(6, len(text))))
        ways.append([text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True)])
    return ways


@pytest.mark.parametrize(("template", "family"), CASES, ids=IDS)
def test_what_a_family_writes_is_read_however_it_is_cut(template: str, family: Family) -> None:
    form = choose(source_of(template))
    for name, text, outcome in written_by(family):
        for chunks in cuts(text):
            got = read(form, chunks)
            wanted = Outcome(outcome.thought, outcome.content.strip(), outcome.calls, outcome.whole)
            assert got == wanted, (name, text)


@pytest.mark.parametrize("name", FAMILIES)
def test_enough_is_recorded_of_every_family(name: str) -> None:
    assert len({text for _, text, _ in written_by(FAMILIES[name])}) >= 10


@pytest.mark.parametrize(("template", "family"), CASES, ids=IDS)
def test_a_forced_call_is_written_as_the_family_does_and_read_back(
    template: str, family: Family, tmp_path: Path
) -> None:
    source = source_of(template)
    vocabulary = vocabulary_of(source, tmp_path)
    chat_template = ChatTemplate(source, vocabulary)
    constraints = Constraints(lambda: read_token_table(SimpleNamespace(vocab=vocabulary._vocab), vocabulary))
    use = ToolUse(tuple(Tool(name, None, schema) for name, schema in TOOLS.items()), required=True)
    chat = prepare(Chat([{"role": "user", "content": "Hi"}], use), chat_template, constraints)
    assert chat.constraint is not None
    # A family whose template does not show what tools there are is told of them, and of how to call them.
    told = chat.prompt.form.calls != chat_template.form.calls or not chat_template.knows_tools
    write = FAMILIES["Hermes"].calls if told else family.forced or family.calls
    text = write([FULL])
    tags = chat.prompt.form.opened_by(chat.prompt.text)
    if tags is not None and family.think:
        text = f"Hm.{family.think[1]}{text}"
    tokens = vocabulary.tokenize(text.encode(), True)
    for number, token in enumerate(tokens):
        if vocabulary.is_end(token):
            break
        assert chat.constraint.allows(token), (text, b"".join(map(vocabulary.piece, tokens[number:])))
        chat.constraint.accept(token)
    reader = FormatReader(chat.prompt.form, TOOLS, tags)
    parts = reader.feed(b"".join(map(vocabulary.piece, tokens)).decode()) + reader.finish()
    assert CallStarted("get_weather") in parts
    arguments = "".join(part.text for part in parts if isinstance(part, CallArguments))
    assert json.loads(arguments) == FULL[1]
