"""Bodies that are no JSON, and those that only look odd."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from compat_tests import strict
from tests.gateway.asking import CHAT, HELLO, TEXT
from tests.serving import ScriptedBackend


def chat_body(**change: Any) -> bytes:
    return json.dumps({**HELLO, **change}).encode()


def text_body(prompt: Any) -> bytes:
    return json.dumps({"model": "test-model", "prompt": prompt}).encode()


def saying(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (CHAT, b"{broken", "double quotes at line 1, column 2"),
        (CHAT, b'{"model": "caf\xe9"}', "not UTF-8"),
        (CHAT, chat_body(temperature=float("nan")), "NaN is not a number"),
        (CHAT, chat_body(temperature=float("-inf")), "-Infinity is not a number"),
        (CHAT, b'{"seed": ' + b"1" * 5000 + b"}", "number that is too large"),
        (CHAT, b'{"metadata": 1e999}', "number that is too large"),
        (CHAT, b"[" * 100_000, "more than 100 levels deep"),
        (CHAT, b'{"a":' * 100 + b"[]" + b"}" * 100, "more than 100 levels deep"),
        (CHAT, chat_body(messages=saying("\ud800")), "unpaired surrogate"),
        (CHAT, chat_body(messages=saying("\udc00\ud800"), stream=True), "unpaired surrogate"),
        (CHAT, chat_body(model="\udfff"), "unpaired surrogate"),
        (CHAT, chat_body(metadata={"\ud83d": ""}), "unpaired surrogate"),
        (TEXT, text_body("\ud800"), "unpaired surrogate"),
        (TEXT, text_body(["a", "\ud800"]), "unpaired surrogate"),
        ("/generate", b'{"message": "\\ud800"}', "unpaired surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bodies_that_are_no_json_are_told_what_is_wrong(
    client: httpx.Client, path: str, body: bytes, says: str
) -> None:
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert (strict.error(response)["code"], strict.error(response)["param"]) == ("invalid_json", None)
    assert says in strict.error(response)["message"]


def test_escaped_pairs_a_byte_order_mark_and_a_hundred_levels_are_fine(
    client: httpx.Client, backend: ScriptedBackend
) -> None:
    deep: Any = []
    for _ in range(97):
        deep = [deep]
    body = b"\xef\xbb\xbf" + chat_body(messages=saying("🗼 \\ud800"), chat_template_kwargs={"x": deep})
    assert b"\\ud83d\\uddfc" in body
    client.post(CHAT, content=body, headers={"Content-Type": "application/json"}).raise_for_status()
    assert backend.requests[0].messages == saying("🗼 \\ud800")
    assert backend.requests[0].template_kwargs == {"x": deep}


def test_a_compressed_body_is_refused_by_its_encoding(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refusal = client.post(CHAT, content=gzip.compress(json.dumps(HELLO).encode()), headers=headers)
    assert refusal.status_code == 415
    assert "'Content-Encoding: gzip'" in strict.error(refusal)["message"]
    identity = {**headers, "Content-Encoding": "identity"}
    assert client.post(CHAT, content=json.dumps(HELLO).encode(), headers=identity).is_success
