"""How messages reach the worker: in the chat template's own form."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import CHAT, HELLO
from tests.gateway.openai.chat.asking import asked
from tests.serving import ScriptedBackend


def call(call_id: str, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_every_role_reaches_the_worker_in_the_templates_form(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": None},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    assert asked(client, backend, messages=messages).messages == [
        {"role": "system", "content": "Be brief.", "name": "dev"},
        {"role": "user", "content": "One\ntwo"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "f"}]},
        {"role": "tool", "content": "", "name": "f", "tool_call_id": "f"},
        {"role": "assistant", "content": "No."},
    ]


@pytest.mark.parametrize("content", [None, [], ""])
def test_an_assistant_may_have_said_nothing(
    client: httpx.Client, backend: ScriptedBackend, content: Any
) -> None:
    messages = [{"role": "assistant", "content": content}]
    assert asked(client, backend, messages=messages).messages == [{"role": "assistant", "content": ""}]


def test_arguments_may_be_an_object(client: httpx.Client, backend: ScriptedBackend) -> None:
    messages = [{"role": "assistant", "tool_calls": [call("c", {"city": "Zürich"})]}]
    (message,) = asked(client, backend, messages=messages).messages
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "Zürich"}'


def test_a_result_without_an_id_answers_the_only_call_that_waits(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    both = {"role": "assistant", "tool_calls": [call("one"), call("two")]}
    result: dict[str, Any] = {"role": "tool", "content": "42"}
    messages = [both, {**result, "tool_call_id": "one"}, result]
    assert asked(client, backend, messages=messages).messages[-1]["tool_call_id"] == "two"
    for unclear in ([result], [both, result], [*messages, result]):
        response = client.post(CHAT, json={**HELLO, "messages": unclear})
        assert response.status_code == 400
        assert strict.error(response)["param"] == f"messages[{len(unclear) - 1}].tool_call_id"
