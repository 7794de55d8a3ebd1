"""Environment variables as users set them, and what they are told of wrong ones."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from gateway.server import listen
from gateway.settings import GatewaySettings, StartError, explain
from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("kind", "name", "value", "says"),
    [
        (GatewaySettings, "SHUTDOWN_GRACE_SECONDS", "inf", "finite"),
        (GatewaySettings, "HEARTBEAT_SECONDS", "nan", "finite"),
        (WorkerSettings, "CPU_CORES", "inf", "finite"),
        (GatewaySettings, "LOG_LEVEL", "warn", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_could(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings], name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        kind()
    sentence = explain(refused.value)
    assert sentence.startswith(f"{name}='{value}' is not valid: ")
    assert says in sentence


def test_a_log_level_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    assert GatewaySettings().log_level == "info"


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no..name"]
)  # one of documentation's addresses; no name at all
def test_an_address_that_is_not_here_is_told_with_what_sets_it(host: str) -> None:
    with pytest.raises(StartError, match=rf"^cannot listen on {host}:0: .*--host or HOST=\.$"):
        listen(host, 0)


def test_a_taken_port_is_told_with_what_sets_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*--port or PORT=\.$"):
            listen("127.0.0.1", port)
