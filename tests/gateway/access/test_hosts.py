"""By which names a server without keys may be called."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from compat_tests import strict
from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "a.localhost", "127.0.0.1:80", "[::1]:80", "10.0.0.7"]
)
def test_addresses_and_localhost_need_no_setting(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).is_success


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_a_name_that_resolves_to_this_machine_is_refused(client: httpx.Client, host: str) -> None:
    response = client.get("/v1/models", headers={"Host": host})
    assert (response.status_code, strict.error(response)["code"]) == (403, "host_not_allowed")
    assert "ALLOWED_HOSTS" in strict.error(response)["message"]


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (GatewaySettings(allowed_hosts="mine.example, other.example"), 200),
        (GatewaySettings(allowed_hosts="other.example"), 403),
        (GatewaySettings(allow_anonymous=True), 200),
        (GatewaySettings(allow_anonymous=True, allowed_hosts="other.example"), 403),
        (GatewaySettings(api_keys=SecretStr("key")), 200),
    ],
)
def test_which_names_may_be_called_is_a_setting(settings: GatewaySettings, status: int) -> None:
    headers = {"Host": "mine.example", "Authorization": "Bearer key"}
    with serving(ScriptedBackend(), settings) as url:
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == status
