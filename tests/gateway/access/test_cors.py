"""Which pages a browser lets ask."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from compat_tests import strict
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO, raising
from tests.serving import ScriptedBackend, say_hello, serving
from worker.protocol import WorkerFailed


@pytest.mark.parametrize(
    ("key", "failure", "status"),
    [
        ("wrong", None, 401),
        ("right", WorkerFailed("The engine has stopped."), 503),
        ("right", RuntimeError("a secret"), 500),
    ],
)
def test_a_browser_is_shown_every_error(key: str, failure: Exception | None, status: int) -> None:
    settings = GatewaySettings(api_keys=SecretStr("right"), cors_origins="https://chat.example")
    script = raising(failure, after=0) if failure else say_hello
    headers = {"Authorization": f"Bearer {key}", "Origin": "https://chat.example"}
    with serving(ScriptedBackend(script), settings) as url:
        response = httpx.post(url + CHAT, json=HELLO, headers=headers)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-ignored-parameters", "retry-after", "retry-after-ms"} <= set(exposed)
    assert strict.error(response)["message"]


def test_a_browser_is_answered_by_where_its_page_is_from() -> None:
    settings = GatewaySettings(cors_origins="https://mine.example")
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        mine = client.options(CHAT, headers={"Origin": "https://mine.example", **asked})
        assert (mine.status_code, mine.headers["access-control-allow-origin"]) == (
            200,
            "https://mine.example",
        )
        foreign = client.options(CHAT, headers={"Origin": "https://other.example", **asked})
        assert (foreign.status_code, strict.error(foreign)["code"]) == (400, "cors_refused")
        assert "CORS origin. Pages from the origins in CORS_ORIGINS" in strict.error(foreign)["message"]
        assert "access-control-allow-origin" not in foreign.headers
        assert foreign.headers["vary"] == mine.headers["vary"]
