"""Responses that are kept: continued, read, listed, referred to and deleted, by nobody but who asked."""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseItemList
from pydantic import SecretStr

from compat_tests import strict, strict_responses
from gateway.app import create_app
from gateway.settings import GatewaySettings
from tests.gateway.openai.chat.test_reply import think_and_call
from tests.gateway.openai.responses.asking import HELLO, RESPONSES, asked
from tests.serving import ScriptedBackend, listening, serving


def create(client: httpx.Client, **change: Any) -> Any:
    return client.post(RESPONSES, json={**HELLO, **change}).raise_for_status().json()


def test_a_response_is_continued_with_what_was_said(client: httpx.Client, backend: ScriptedBackend) -> None:
    first = create(client, instructions="Be brief.")
    second = create(client, input="And?", previous_response_id=first["id"])
    request = asked(client, backend, input="So?", instructions="Shout.", previous_response_id=second["id"])
    assert request.messages == [
        {"role": "system", "content": "Shout."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "So?"},
    ]
    assert (first["store"], second["previous_response_id"]) == (True, first["id"])


def test_a_call_is_answered_without_being_sent_again(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = think_and_call
    called = create(client)
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "42"}
        for item in called["output"]
        if item["type"] == "function_call"
    ]
    request = asked(client, backend, input=outputs, previous_response_id=called["id"])
    thought, *results = request.messages[1:]
    assert (thought["reasoning_content"], thought["content"]) == ("Hmm.", "I look.")
    assert [call["id"] for call in thought["tool_calls"]] == ["call_1", "call_2"]
    assert [result["tool_call_id"] for result in results] == ["call_1", "call_2"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_read_as_it_was_answered(
    client: httpx.Client, backend: ScriptedBackend, stream: bool
) -> None:
    backend.script = think_and_call
    answer = client.post(RESPONSES, json={**HELLO, "stream": stream})
    body = strict_responses.stream(answer)[0][-1]["response"] if stream else answer.json()
    kept = client.get(f"{RESPONSES}/{body['id']}")
    assert kept.json() == body
    strict_responses.response(kept.json())


def test_what_a_response_was_made_from_is_listed_in_pages(client: httpx.Client) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": {"a": 1}},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "42"}]},
        {"role": "assistant", "content": "Yes."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
    ]
    first = create(client, input=items)
    second = create(client, previous_response_id=first["id"])
    url = f"{RESPONSES}/{second['id']}/input_items"
    everything = client.get(url, params={"order": "asc"}).json()
    ResponseItemList.model_validate_json(client.get(url).text, strict=True)
    kinds = ["message", "function_call", "function_call_output", "message", "reasoning", "message", "message"]
    assert [item["type"] for item in everything["data"]] == kinds
    texts = [item["content"][0]["text"] for item in everything["data"] if item["type"] == "message"]
    assert texts == ["Be brief.", "Yes.", "Hello", "Hi"]
    assert everything["data"][1]["arguments"] == '{"a":1}'
    latest = client.get(url, params={"limit": 2}).json()
    assert latest["data"] == everything["data"][:-3:-1]
    assert (latest["has_more"], latest["last_id"]) == (True, everything["data"][-2]["id"])
    rest = client.get(url, params={"limit": 5, "after": latest["last_id"]}).json()
    assert rest["data"] == everything["data"][-3::-1]
    assert (rest["has_more"], rest["first_id"]) == (False, everything["data"][-3]["id"])


def test_an_item_may_be_referred_to(client: httpx.Client, backend: ScriptedBackend) -> None:
    said = create(client)["output"][0]["id"]
    references = [{"type": "item_reference", "id": said}, {"id": said}]
    request = asked(client, backend, input=[*references, {"role": "user", "content": "So?"}])
    assert [message["content"] for message in request.messages] == ["Hello", "Hello", "So?"]


def test_what_is_deleted_or_was_not_to_be_kept_is_gone(client: httpx.Client) -> None:
    deleted, unkept = create(client)["id"], create(client, store=False)
    after = create(client, previous_response_id=deleted)["id"]
    done = client.delete(f"{RESPONSES}/{deleted}").json()
    assert done == {"id": deleted, "object": "response", "deleted": True}
    assert unkept["store"] is False
    for gone in (deleted, unkept["id"]):
        for answer in (
            client.get(f"{RESPONSES}/{gone}"),
            client.delete(f"{RESPONSES}/{gone}"),
            client.get(f"{RESPONSES}/{gone}/input_items"),
        ):
            assert answer.status_code == 404
            assert strict.error(answer)["code"] == "response_not_found"
    for broken in (deleted, after):
        refusal = client.post(RESPONSES, json={**HELLO, "previous_response_id": broken})
        assert refusal.status_code == 400
        assert strict.error(refusal)["code"] == "previous_response_not_found"
        assert f"'{deleted}' is not kept here" in strict.error(refusal)["message"]
    assert client.get(f"{RESPONSES}/{after}").is_success


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("?stream=true", "stream"),
        ("/input_items?limit=0", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=msg_1", "after"),
    ],
)
def test_what_cannot_be_listed_is_refused_by_name(client: httpx.Client, path: str, param: str) -> None:
    refusal = client.get(f"{RESPONSES}/{create(client)['id']}{path}")
    assert refusal.status_code == 400
    assert strict.error(refusal)["param"] == param


def test_a_reference_to_nothing_is_refused_by_its_place(client: httpx.Client) -> None:
    for item in ({"id": "msg_1"}, {"type": "item_reference", "id": ""}):
        refusal = client.post(RESPONSES, json={**HELLO, "input": [{"role": "user", "content": "Hi"}, item]})
        assert (refusal.status_code, strict.error(refusal)["param"]) == (400, "input[1].id")


def test_another_key_sees_nothing() -> None:
    settings = GatewaySettings(api_keys=SecretStr("mine,yours"))
    with serving(ScriptedBackend(), settings) as url:
        mine = httpx.Client(base_url=url, headers={"Authorization": "Bearer mine"})
        yours = httpx.Client(base_url=url, headers={"x-api-key": "yours"})
        with mine, yours:
            kept = create(mine)
            place, said = f"{RESPONSES}/{kept['id']}", kept["output"][0]["id"]
            for answer in (yours.get(place), yours.delete(place), yours.get(f"{place}/input_items")):
                assert answer.status_code == 404
            for change in ({"previous_response_id": kept["id"]}, {"input": [{"id": said}]}):
                assert yours.post(RESPONSES, json={**HELLO, **change}).status_code == 400
            assert mine.get(place, headers={"Authorization": "", "x-api-key": "mine"}).json() == kept


def test_where_nothing_is_kept_that_is_said() -> None:
    with serving(ScriptedBackend(), GatewaySettings(responses_mb=0)) as url:
        answer = httpx.post(f"{url}{RESPONSES}", json={**HELLO, "store": True})
        assert answer.headers["x-ignored-parameters"] == "store"
        assert answer.json()["store"] is False
        place = f"{url}{RESPONSES}/{answer.json()['id']}"
        assert "keeps no responses" in strict.error(httpx.get(place))["message"]
        refusal = httpx.post(f"{url}{RESPONSES}", json={**HELLO, "previous_response_id": "resp_1"})
        assert strict.error(refusal)["code"] == "unsupported_parameter"


def test_a_conversation_larger_than_a_body_may_be_is_refused() -> None:
    with serving(ScriptedBackend(), GatewaySettings(max_body_bytes=8192)) as url:
        with httpx.Client(base_url=url) as client:
            last = None
            for _ in range(2):
                last = create(client, input="x" * 4000, previous_response_id=last)["id"]
            refusal = client.post(RESPONSES, json={**HELLO, "previous_response_id": last})
        assert refusal.status_code == 413
        assert strict.error(refusal)["param"] == "previous_response_id"


def test_an_answer_that_cannot_be_kept_is_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    settings = GatewaySettings()
    app = create_app(ScriptedBackend(), settings)

    async def fail(owner: str, kept: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    app.state.responses.keep = fail
    with listening(app, settings) as url:
        assert httpx.post(f"{url}{RESPONSES}", json=HELLO).json()["status"] == "completed"
    assert "database or disk is full" in capfd.readouterr().err
