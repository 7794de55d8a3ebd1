"""Keys as an operator writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from gateway.access import keys
from gateway.access.keys import KeyRing
from gateway.caller import ANYBODY, Caller
from gateway.cli import app
from gateway.settings import GatewaySettings, StartError

NO_KEYS = "# nobody yet\n"


def hashed(name: str, key: str) -> str:
    return f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "SECONDS_BETWEEN_LOOKS", 0.0)


def test_a_key_is_known_by_its_name_or_its_place() -> None:
    ring = KeyRing(GatewaySettings(api_keys=SecretStr(f"plain, ada:secret, {hashed('bob', 'hidden')}")))
    assert [ring.caller(key) for key in ("plain", "secret", "hidden")] == [
        Caller("key-1"),
        Caller("ada"),
        Caller("bob"),
    ]
    for wrong in ("", "ada", "ada:secret", "bob", hashed("bob", "hidden")):
        assert ring.caller(wrong) is None


def test_without_any_setting_of_keys_anybody_may_ask() -> None:
    assert KeyRing(GatewaySettings()).caller("") == ANYBODY


@pytest.mark.usefixtures("no_waiting")
def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{NO_KEYS}\n{hashed('ada', 'old')}\n")
    ring = KeyRing(GatewaySettings(api_keys_file=file))
    assert ring.caller("old") == Caller("ada")
    file.write_text(f"ada:new\n{hashed('ada', 'newer')}")
    assert [ring.caller(key) for key in ("old", "new", "newer")] == [None, Caller("ada"), Caller("ada")]
    file.write_text(NO_KEYS)
    assert ring.caller("new") is None, "an empty file opens the server to nobody"


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("slip", ["no name", "ada:", "ada:sha256:12", None])
def test_a_slip_in_the_file_locks_nobody_out(tmp_path: Path, slip: str | None) -> None:
    file = tmp_path / "keys"
    file.write_text("ada:key\n")
    ring = KeyRing(GatewaySettings(api_keys_file=file))
    file.write_text(f"{slip}\n") if slip else file.unlink()
    assert ring.caller("key") == Caller("ada")


@pytest.mark.parametrize("line", ["just-a-key", "two words:key", "ada:", "ada:sha256:xyz"])
def test_a_file_with_a_slip_does_not_start_and_shows_no_key(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"bob:fine\n{line}\n")
    with pytest.raises(StartError, match="Line 2 of API_KEYS_FILE=") as raised:
        KeyRing(GatewaySettings(api_keys_file=file))
    assert "just-a-key" not in str(raised.value)


def test_a_missing_file_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        KeyRing(GatewaySettings(api_keys_file=tmp_path / "none"))


def test_the_command_makes_keys_that_the_server_knows(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["key", "ada"])
    assert made.exit_code == 0
    file = tmp_path / "keys"
    file.write_text(made.stdout)
    secret = made.stderr.split()[-1]
    assert secret not in made.stdout
    assert KeyRing(GatewaySettings(api_keys_file=file)).caller(secret) == Caller("ada")
    assert CliRunner().invoke(app, ["key", "two words"]).exit_code == 2
