"""How the format of an answer is asked for, and how it reaches the worker."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import CHAT, HELLO
from tests.gateway.openai.chat.asking import PARAMETERS, asked
from tests.serving import ScriptedBackend

SCHEMA = {**PARAMETERS, "default": None}  # a null that means something
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
NAMED = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
REGEX = {"type": "regex", "regex": "[a-z]+"}
CHOICE = {"type": "choice", "choice": ["yes", "no"]}
ANY_OBJECT = {"type": "json_object"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"response_format": NAMED}, NAMED),
        ({"response_format": JSON_SCHEMA}, JSON_SCHEMA),
        ({"response_format": ANY_OBJECT}, ANY_OBJECT),
        ({"response_format": {**ANY_OBJECT, "schema": SCHEMA}}, {**ANY_OBJECT, "schema": SCHEMA}),
        ({"response_format": {"type": "text"}}, None),
        ({"json_schema": SCHEMA}, JSON_SCHEMA),
        ({"guided_json": SCHEMA}, JSON_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, JSON_SCHEMA),
        ({"guided_regex": "[a-z]+"}, REGEX),
        ({"guided_choice": ["yes", "no"]}, CHOICE),
        ({"structured_outputs": {"json": SCHEMA}}, JSON_SCHEMA),
        ({"structured_outputs": {"json_object": True, "choice": None}}, ANY_OBJECT),
        ({"structured_outputs": {"regex": "[a-z]+", "json_object": False}}, REGEX),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, CHOICE),
        ({"response_format": {"type": "text"}, "guided_regex": "[a-z]+"}, REGEX),
    ],
)
def test_whichever_way_it_is_asked_for_the_worker_gets_one_format(
    client: httpx.Client, backend: ScriptedBackend, change: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert asked(client, backend, **change).response_format == expected


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"response_format": ANY_OBJECT, "guided_regex": "a"}, "guided_regex", "only one"),
        ({"guided_json": "[1]"}, "guided_json", "an object"),
        ({"guided_json": "{"}, None, "not valid JSON"),
        ({"guided_choice": []}, "guided_choice", "at least 1 item"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "exactly one of"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar", "JSON Schema"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs.grammar", "JSON Schema"),
    ],
)
def test_what_cannot_be_held_to_is_refused(
    client: httpx.Client, change: dict[str, Any], param: str | None, says: str
) -> None:
    response = client.post(CHAT, json={**HELLO, **change})
    assert response.status_code == 400
    envelope = strict.error(response)
    assert envelope["param"] == param
    assert says in envelope["message"]
