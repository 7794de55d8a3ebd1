"""The same prompts as llama.cpp's own server, another implementation: the same tokens, the same answers."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from compat_tests.environments import python_environment
from compat_tests.server import ServerProcess
from tests.worker.chat.test_template import template

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

ROUNDING = 0.4  # natural log; at 4 bits and with other kernels
XLLAMACPP = "xllamacpp==2026.10.11549"
SCRIPT = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.use_jinja, params.warmup = 2048, 1, True, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def said(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


SYSTEM = {"role": "system", "content": "You answer in one short sentence."}
CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "a question": [SYSTEM, *said("What is the capital of France?")],
    "no system message": said("Name three colours."),
    "several turns": [SYSTEM, *said("Hi!", "Hello! How can I help?", "What is 2 + 2?")],
    "white space": [SYSTEM, *said("  two  spaces,\n\n\ttabs and a trailing one ")],
    "languages": [SYSTEM, *said("Übersetze: 猫が好きです。 🗼 naïve café")],
    "code": [SYSTEM, *said("def f(x):\n    return x < 3 and x > 1 or '[' + x + ']'")],
    "empty": [SYSTEM, *said("")],
    "system in the middle": [*said("Hi", "Hello"), SYSTEM, *said("Who are you?")],
}


@pytest.fixture(scope="module")
def oracle(default_model_file: Path) -> Iterator[str]:
    """llama-server's URL, with the same model file."""
    python = python_environment(XLLAMACPP) / "python"
    command = [str(python), "-c", SCRIPT, str(default_model_file)]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        deadline = time.monotonic() + 60
        while httpx.get(f"{url}/health").status_code != 200:
            assert time.monotonic() < deadline
        yield url


def post(url: str, body: dict[str, Any]) -> Any:
    return httpx.post(url, json=body, timeout=120).raise_for_status().json()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_have_the_same_tokens(oracle: str, name: str) -> None:
    messages = CONVERSATIONS[name]
    prompt = post(f"{oracle}/apply-template", {"messages": messages})["prompt"]
    theirs = post(f"{oracle}/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    assert template().prompt(messages).tokens == theirs["tokens"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_begin_the_same(oracle: str, server_process: ServerProcess, name: str) -> None:
    """Greedy decoding agrees until two tokens are about as likely, and there rounding decides.

    The wheel's kernels are AVX2's and ours the machine's own; llama-server computes a prompt in one batch,
    this server its cached prefix and the rest apart. Without a system message this server would add one.
    """
    messages = CONVERSATIONS[name]
    if not any(message["role"] == "system" for message in messages):
        messages = [SYSTEM, *messages]
    theirs, ours = (
        post(f"{url}/chat/completions", request(model, messages))["choices"][0]
        for url, model in ((f"{oracle}/v1", "any"), (server_process.base_url, server_process.model()))
    )
    for their, our in zip(theirs["logprobs"]["content"], ours["logprobs"]["content"], strict=False):
        if "\ufffd" in our["token"]:  # llama-server tells a character made of several tokens as one of them
            assert theirs["message"]["content"][:1] == ours["message"]["content"][:1]
            return
        if their["token"] != our["token"]:
            best, second = (top["logprob"] for top in our["top_logprobs"][:2])
            assert best - second < ROUNDING, (their, our)
            assert our["top_logprobs"][1]["token"] == their["token"]
            return
        assert abs(their["logprob"] - our["logprob"]) < ROUNDING


def request(model: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    options = {"temperature": 0, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}
    return {"model": model, "messages": messages, **options}
