"""Whatever fails below /v1/messages is answered in Anthropic's envelope, and elsewhere in OpenAI's."""

from __future__ import annotations

import json

import httpx
import pytest
from pydantic import SecretStr

from compat_tests import strict
from compat_tests import strict_messages as messages
from gateway.settings import GatewaySettings
from tests.gateway.anthropic.messages.asking import COUNT, HELLO, MESSAGES
from tests.gateway.asking import CHAT, raising
from tests.serving import ScriptedBackend, serving
from worker.protocol import ContextLengthExceeded, Overloaded, WorkerError, WorkerFailed

OTHER_MODEL = json.dumps({**HELLO, "model": "claude"}).encode()


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/messages", None, 405, "invalid_request_error"),
        ("GET", "/messages/batches", None, 404, "not_found_error"),
        ("POST", "/messages", b"{broken", 400, "invalid_request_error"),
        ("POST", "/messages", b"[]", 400, "invalid_request_error"),
        ("POST", "/messages", b"{}", 400, "invalid_request_error"),
        ("POST", "/messages", OTHER_MODEL, 404, "not_found_error"),
        ("POST", "/messages/count_tokens", OTHER_MODEL, 404, "not_found_error"),
        ("POST", "/messages", b"x" * (5 << 20), 413, "request_too_large"),
    ],
)  # fmt: skip
def test_every_failure_is_anthropics_envelope(
    client: httpx.Client, prefix: str, method: str, path: str, body: bytes | None, status: int, kind: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.request(method, prefix + path, content=body, headers=headers)
    assert response.status_code == status
    assert messages.error(response)["type"] == kind


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Overloaded("The queue is full.", 2.5), 529, "overloaded_error"),
        (WorkerFailed("The worker was lost."), 503, "api_error"),
        (ContextLengthExceeded(512, 600, "messages"), 400, "invalid_request_error"),
    ],
)
def test_what_a_worker_refuses_has_its_status(
    client: httpx.Client, backend: ScriptedBackend, failure: WorkerError, status: int, kind: str, path: str
) -> None:
    backend.script = raising(failure, after=0)
    body = {name: value for name, value in HELLO.items() if path == MESSAGES or name != "max_tokens"}
    response = client.post(path, json=body)
    assert response.status_code == status
    error = messages.error(response)
    assert error["type"] == kind
    if status == 529:
        assert response.headers["retry-after-ms"] == "2500"
    if status == 400:
        assert error["message"].startswith("prompt is too long: ")
        assert "resulted in 600 tokens" in error["message"]


def test_a_key_may_come_as_anthropics_clients_send_it() -> None:
    settings = GatewaySettings(api_keys=SecretStr("the-key"))
    with serving(ScriptedBackend(), settings) as url:
        for headers in ({"x-api-key": "the-key"}, {"Authorization": "Bearer the-key"}):
            headers = {**headers, "anthropic-version": "2023-06-01", "anthropic-beta": "any"}
            httpx.post(f"{url}{MESSAGES}", json=HELLO, headers=headers).raise_for_status()
        refused = httpx.post(f"{url}{MESSAGES}", json=HELLO, headers={"x-api-key": "another"})
        assert refused.status_code == 401
        assert messages.error(refused)["type"] == "authentication_error"
        assert strict.error(httpx.post(f"{url}{CHAT}", json={}))["code"] == "invalid_api_key"
