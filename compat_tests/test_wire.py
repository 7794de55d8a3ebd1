"""What the SDK hides: raw bytes, process start and stop, clients that leave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from compat_tests.server import (
    NEVER_ENDS,
    Server,
    ServerProcess,
    clean_environment,
    running_server,
    starting_server,
)

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
STORY = {"messages": [{"role": "user", "content": "Tell me a very long story."}], "temperature": 0}


def test_curl_gets_an_answer_from_generate(server: Server) -> None:
    command = ["curl", "-sS", f"{server.url}/generate", "-H", "Content-Type: application/json"]
    body = json.dumps({"message": "What is the capital of France?"})
    answer = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True)
    assert set(json.loads(answer.stdout)) == {"response"}
    assert "Paris" in answer.stdout


def test_the_bytes_of_a_stream(server: Server, model: str) -> None:
    request = {**STORY, "model": model, "max_tokens": 5, "stream": True}
    response = httpx.post(f"{server.base_url}/chat/completions", json=request)
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") and "\n" not in event for event in events[:-2])
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}


def test_a_client_that_leaves_frees_its_slot() -> None:
    """With one slot, the next request is answered at once instead of after a whole story."""
    with running_server(LLM_CTX="8192", LLM_SLOTS="1") as server:
        request = {**STORY, "model": DEFAULT_MODEL, "logit_bias": NEVER_ENDS, "stream": True}
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=request) as response:
            next(response.iter_lines())
        started = time.monotonic()
        short = {**STORY, "model": DEFAULT_MODEL, "max_tokens": 1}
        httpx.post(f"{server.base_url}/chat/completions", json=short, timeout=30).raise_for_status()
        assert time.monotonic() - started < 10  # the story has 8,000 tokens to go: a minute


def test_a_stopping_server_ends_what_it_answers_with_an_error() -> None:
    with running_server(LLM_CTX="8192", LLM_SLOTS="1", SHUTDOWN_GRACE_SECONDS="0") as server:
        request = {**STORY, "model": DEFAULT_MODEL, "logit_bias": NEVER_ENDS}
        whole = HTTPConnection(server.url.removeprefix("http://"))
        body = json.dumps(request).encode()
        # Sent before the stream is, so that the server has it once the stream has begun.
        whole.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        request["stream"] = True
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=request) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.terminate()
            last = [line for line in lines if line][-1]
        assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
        answer = whole.getresponse()
        assert answer.status == 503
        assert "shutting down" in json.loads(answer.read())["error"]["message"]
        whole.close()
        assert server.process.wait(timeout=20) == 0
    assert "Ctrl-C again stops at once" in server.printed()
    assert "Traceback" not in server.printed()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_finishes_what_it_answers_and_refuses_what_is_new(sign: signal.Signals) -> None:
    with running_server(LLM_CTX="2048", LLM_SLOTS="2", SHUTDOWN_GRACE_SECONDS="60") as server:
        request = {
            **STORY,
            "model": DEFAULT_MODEL,
            "logit_bias": NEVER_ENDS,
            "stream": True,
            "max_tokens": 300,
        }
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=request) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(sign)
            server.wait_until_printed("Stopping")
            ready = httpx.get(f"{server.url}/ready")
            assert ready.status_code == 503
            assert "is stopping" in ready.text
            refused = httpx.post(f"{server.base_url}/chat/completions", json=request)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.printed()


def test_a_second_ctrl_c_stops_at_once_and_quietly() -> None:
    with running_server(LLM_CTX="8192", LLM_SLOTS="1", SHUTDOWN_GRACE_SECONDS="600") as server:
        request = {**STORY, "model": DEFAULT_MODEL, "logit_bias": NEVER_ENDS, "stream": True}
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=request) as response:
            lines = response.iter_lines()  # letting go of them would close the stream
            next(lines)
            server.process.send_signal(signal.SIGINT)
            server.wait_until_printed("Ctrl-C again stops at once")
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(timeout=10) == 130
    assert "Traceback" not in server.printed()


def test_ctrl_c_stops_a_server_that_loads_its_model() -> None:
    with starting_server(LLM_CTX="512", LLM_SLOTS="1") as server:
        server.wait_until_printed(f"Loading {DEFAULT_MODEL}…\n")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=10) == 130
    assert "Traceback" not in server.printed()


def start_and_fail(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", *arguments]
    environment = {**clean_environment(), **environment}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_model_that_cannot_be_served_stops_the_start(tmp_path: Path, default_model_file: Path) -> None:
    missing = start_and_fail("--model", str(tmp_path / "missing.gguf"))
    assert f"No model file at {tmp_path / 'missing.gguf'}" in missing
    assert "--model PATH" in missing
    text = tmp_path / "text.gguf"
    text.write_text("this is no model")
    assert "not a GGUF file" in start_and_fail("--model", str(text))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(default_model_file.read_bytes()[: 20 << 20])
    damaged = start_and_fail("--model", str(cut))
    assert "truncated" in damaged
    assert "--model PATH" in damaged
    assert "modal" not in missing + damaged


@pytest.mark.parametrize(
    ("name", "value"),
    [("LLM_CTX", "many"), ("LLM_THREADS", "0"), ("HEARTBEAT_SECONDS", "-1"), ("MEM_MB", "")],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    if value:
        assert f"{name}='{value}'" in start_and_fail(**{name: value})
    else:
        with running_server(LLM_SLOTS="1", **{name: value}):
            pass  # an empty variable is an unset one


def test_an_open_address_without_keys_is_refused() -> None:
    assert "API_KEYS" in start_and_fail("--host", "0.0.0.0")


def test_a_taken_port_is_told_at_once(server_process: ServerProcess) -> None:
    port = server_process.url.rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1:{port}" in start_and_fail("--port", port)


def test_the_banner_shows_what_works_as_pasted(server_process: ServerProcess) -> None:
    banner = server_process.printed()
    assert banner.index(f"Loading {DEFAULT_MODEL}…\n") < banner.index("Serving ")
    curl = banner[banner.index("  curl ") : banner.index("  from openai")]
    answer = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["object"] == "chat.completion"
    snippet = banner[banner.index("  from openai") :].split("\n\n")[0]
    code = "\n".join(line.removeprefix("  ") for line in snippet.splitlines()[:5])
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip()
