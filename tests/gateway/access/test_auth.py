"""Who may ask."""

from __future__ import annotations

import httpx
from pydantic import SecretStr

from compat_tests import strict
from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO
from tests.serving import ScriptedBackend, serving


def test_keys_open_everything_but_only_if_right() -> None:
    settings = GatewaySettings(api_keys=SecretStr("first, second"))
    with serving(ScriptedBackend(), settings) as url, httpx.Client(base_url=url) as client:
        for header in (None, "Bearer wrong", "Bearer", "Basic first", "Bearer first, second"):
            headers = {"Authorization": header} if header else {}
            response = client.post(CHAT, content=b"{broken", headers=headers)
            assert (response.status_code, strict.error(response)["code"]) == (401, "invalid_api_key")
        for key in ("first", "second"):
            assert client.post(CHAT, json=HELLO, headers={"Authorization": f"Bearer {key}"}).is_success
            for header in ("x-api-key", "api-key"):
                assert client.post(CHAT, json=HELLO, headers={header: key}).is_success
        assert client.post(CHAT, json=HELLO, headers={"x-api-key": "wrong"}).status_code == 401
        assert client.get("/health").is_success
        assert client.get("/v1/models").status_code == 401
        assert client.get("/openapi.json").status_code == 401


def test_a_key_need_not_be_ascii() -> None:
    settings = GatewaySettings(api_keys=SecretStr("schlüssel"))
    with serving(ScriptedBackend(), settings) as url:
        for key, status in (("schlüssel", 200), ("schlussel", 401)):
            response = httpx.get(f"{url}/v1/models", headers={b"Authorization": f"Bearer {key}".encode()})
            assert response.status_code == status
