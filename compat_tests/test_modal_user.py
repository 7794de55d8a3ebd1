"""app.py from the user's side: deployed with the README's commands, asked with a key, deployed again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from compat_tests.deployment import APP, ROOT, WORKER
from compat_tests.modal_emulator import ContainerInfo, ModalEmulator
from compat_tests.server import NEVER_ENDS
from compat_tests.snippets import README, deployment_commands
from tests.worker.models.fake_hub import TINY_GGUF, serving_hub

MODEL = "model_q4_0"
KEY = "choose-a-long-random-key"
SETTINGS = {"LLM_CTX": "4096", "LLM_SLOTS": "2", "LLM_THREADS": "1"}
STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Write a very long story."}]


@pytest.fixture(scope="module")
def emulator(default_model_file: Path) -> Iterator[ModalEmulator]:
    with ModalEmulator() as emulator:
        for command in deployment_commands(README):
            mine = [str(default_model_file) if part == "model.gguf" else part for part in command]
            emulator.modal(*mine, env=SETTINGS, cwd=ROOT)
        yield emulator


@pytest.fixture(scope="module")
def client(emulator: ModalEmulator) -> Iterator[openai.OpenAI]:
    url = f"{emulator.url(APP, 'gateway')}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=90) as client:
        yield client


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=8)
    return answer.choices[0].message.content or ""


def test_what_was_put_on_the_volume_answers_who_has_the_key(
    emulator: ModalEmulator, client: openai.OpenAI
) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert ask(client)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").models.list()


def test_the_page_to_chat_is_deployed_too(emulator: ModalEmulator) -> None:
    url = emulator.url(APP, "gateway")
    assert "<title>Chat" in httpx.get(url, headers={"Accept": "text/html"}, timeout=90).text
    assert httpx.get(f"{url}/page/vendor/katex/fonts/KaTeX_Main-Regular.woff2").is_success


def test_modal_run_asks_the_deployed_worker_one_question(emulator: ModalEmulator) -> None:
    output = emulator.modal("run", "app.py", "--question", "Say hello.", env=SETTINGS, cwd=ROOT)
    phases = r"accepted after \d+\.\d+ s: .*\nfirst text after \d+\.\d+ s more.*\n"
    speed = r"\d+ tokens, \d+\.\d a second .*\na million tokens so, .*: \$\d+\.\d\d "
    assert re.search(rf"\w.*\n\n{phases}{speed}", output)
    assert [each.function for each in emulator.containers(WORKER)] == [WORKER], "no worker of its own"


def test_modal_run_says_that_the_app_is_not_deployed(emulator: ModalEmulator) -> None:
    with pytest.raises(RuntimeError, match=r"other is not deployed here; run `modal deploy app\.py` first"):
        emulator.modal("run", "app.py", env={**SETTINGS, "APP_NAME": "other"}, cwd=ROOT)


def test_modal_run_says_which_command_puts_a_missing_model_there(emulator: ModalEmulator) -> None:
    with pytest.raises(RuntimeError, match=r"No model file at /models/none\.gguf.*::pull_model") as raised:
        emulator.modal("run", "app.py", "--model", "none", env=SETTINGS, cwd=ROOT)
    assert "Traceback" not in str(raised.value)


def test_modal_run_lists_the_models(emulator: ModalEmulator) -> None:
    output = emulator.modal("run", "app.py::list_models", env=SETTINGS, cwd=ROOT)
    assert f"/models/models/{MODEL}.gguf" in output
    settings = {**SETTINGS, "VOLUME_NAME": "empty"}
    output = emulator.modal("run", "app.py::list_models", env=settings, cwd=ROOT)
    assert "no GGUF file yet. The Volume empty is mounted" in output
    assert f"`modal volume put empty FILE.gguf models/{MODEL}.gguf`" in output


def test_modal_run_pulls_a_model_to_the_volume(emulator: ModalEmulator) -> None:
    with serving_hub({"small.gguf": TINY_GGUF}) as hub:
        settings = {**SETTINGS, "VOLUME_NAME": "pulled", "HF_ENDPOINT": hub}
        wanted = ("--repo", "me/models", "--file", "small.gguf")
        output = emulator.modal("run", "app.py::pull_model", *wanted, env=settings, cwd=ROOT)
        with pytest.raises(RuntimeError) as raised:
            emulator.modal("run", "app.py::pull_model", *wanted[:-1], "none.gguf", env=settings, cwd=ROOT)
    assert "/models/small.gguf is on the Volume pulled, 0 MiB, checked." in output
    assert "100%" in output
    assert (emulator.volume_path("pulled") / "small.gguf").read_bytes() == TINY_GGUF
    failure = str(raised.value)
    assert failure.strip().endswith("for a private or gated repository set HF_TOKEN.")
    assert failure.count("Traceback") == 1, "Modal's own, without those of the Hub's client"


def test_a_redeploy_serves_at_once_and_lets_streams_finish(
    emulator: ModalEmulator, client: openai.OpenAI
) -> None:
    def new_one_is_ready(containers: list[ContainerInfo]) -> bool:
        return any(each.version == 2 and each.ready for each in containers)

    with client.chat.completions.create(
        model=MODEL, messages=STORY, logit_bias=NEVER_ENDS, stream=True
    ) as stream:
        chunks = iter(stream)
        next(chunks)
        emulator.deploy("app.py", env=SETTINGS, cwd=ROOT)
        emulator.wait_for(new_one_is_ready, WORKER)
        assert ask(client)
        for _ in range(10):
            assert next(chunks)
    emulator.wait_for(lambda found: all(each.version == 2 for each in found))
    assert ask(client)
