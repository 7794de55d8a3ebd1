"""The recipes of docs/clients.md as they stand, each client in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from compat_tests.agent_script import ANSWER, scripted_agent, tools_ran
from compat_tests.environments import node_environment, python_environment, trimmed_environment
from compat_tests.snippets import CLIENTS, blocks_of
from tests.serving import ScriptedBackend, serving
from worker.protocol import Accepted, ChatRequest, Event, Finished, InvalidRequest, TextDelta, Usage

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", CLIENTS.read_text(), re.DOTALL | re.MULTILINE))
NOT_RUN = {"LibreChat"}
CHATS = {"aider", "llm", "LiteLLM"}  # without tools
ELSEWHERE = {"Conformance", "lm-evaluation-harness", "nginx", "Open WebUI"}  # have tests of their own
RECIPES = [name for name, text in SECTIONS.items() if blocks_of(text, "sh") and name not in ELSEWHERE]
NOT_FOR_CHAT = (
    "accelerate",
    "einops",
    "faster-whisper",
    "opencv-python-headless",
    "rapidocr",
    "sentence-transformers",
    "transformers",
)
DEFAULT_URL = "http://127.0.0.1:8000"


@pytest.fixture
def backend() -> ScriptedBackend:
    return scripted_agent()


@pytest.fixture
def url(backend: ScriptedBackend) -> Iterator[str]:
    with serving(backend) as url:
        yield url


def installed(line: str) -> Path:
    """The environment that `pip install …` or `npm install …` asks for."""
    program, _, *packages = [part for part in shlex.split(line) if part != "-g"]
    return python_environment(*packages) if program == "pip" else node_environment(*packages)


def environment(installation: Path, home: Path) -> dict[str, str]:
    """Of a user who has this client and no settings."""
    programs = (
        installation / "node_modules" / ".bin" if (installation / "node_modules").exists() else installation
    )
    kept = {name: os.environ[name] for name in ("LANG", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb"}


def run(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_works(name: str, backend: ScriptedBackend, url: str, tmp_path: Path) -> None:
    text = SECTIONS[name].replace(DEFAULT_URL, url)
    install, _, commands = blocks_of(text, "sh")[0].partition("\n")
    installation = installed(install)
    variables = environment(installation, tmp_path)
    printed = run(["sh", "-ec", commands], tmp_path, variables)
    for program in blocks_of(text, "python"):
        printed += run(["python", "-c", program], tmp_path, variables)
    for program in blocks_of(text, "js"):
        (installation / "recipe.mjs").write_text(program)  # Node looks for packages beside the script
        printed += run(["node", "recipe.mjs"], installation, variables)
    assert ANSWER in printed
    if name not in CHATS:
        assert tools_ran(backend)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def wait_until_served(address: str) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:  # it waits longer each time
        client.get(address).raise_for_status()


# nginx 1.22 as it comes speaks HTTP/1.0 to what is behind it, and buffers.
BARE = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8000; } }"


@pytest.fixture(params=["recipe", "bare"])
def proxied(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[str]:
    """nginx in front of the server, with the recipe's configuration and with next to none."""
    nginx = shutil.which("nginx")
    assert nginx, "nginx is not installed (on Debian: apt-get install nginx)"
    port = free_port()
    (recipe,) = blocks_of(SECTIONS["nginx"], "nginx") if request.param == "recipe" else [BARE]
    recipe = recipe.replace("127.0.0.1:8000", url.removeprefix("http://")).replace(
        "8080", f"127.0.0.1:{port}"
    )
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off; user root; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths}\n{recipe}\n}}\n"
    )
    command = [nginx, "-c", str(configuration), "-p", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        proxied = f"http://127.0.0.1:{port}"
        try:
            wait_until_served(f"{proxied}/health")
            yield proxied
        finally:
            process.terminate()


def test_nginx_passes_tokens_on_as_they_come(proxied: str, backend: ScriptedBackend) -> None:
    more = threading.Event()

    async def waits(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        yield [Accepted(5)]
        yield [TextDelta(0, "first")]
        await asyncio.to_thread(more.wait, 20)
        yield [TextDelta(0, "second"), Finished(0, "stop")]
        yield [Usage(5, 2)]

    backend.script = waits
    with openai.OpenAI(base_url=f"{proxied}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="SmolLM2-135M-Instruct", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        texts = (chunk.choices[0].delta.content for chunk in stream)
        received = [next(text for text in texts if text)]
        assert not more.is_set()
        more.set()
        received += [text for text in texts if text]
        assert received == ["first", "second"]
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            client.chat.completions.create(model="missing", messages=[{"role": "user", "content": "Hi"}])
        assert all(client.models.list().data for _ in range(50)), "connections are kept"


@pytest.fixture
def open_webui(url: str, tmp_path: Path) -> Iterator[str]:
    """As its recipe starts it, without the packages that it has for documents and speech."""
    address = f"http://127.0.0.1:{free_port()}"
    recipe = SECTIONS["Open WebUI"].replace(DEFAULT_URL, url).replace("8080", address.rpartition(":")[2])
    install, _, commands = blocks_of(recipe, "sh")[0].partition("\n")
    installation = trimmed_environment(install.split()[-1], NOT_FOR_CHAT)
    variables = environment(installation, tmp_path) | {
        "DATA_DIR": str(tmp_path / "data"),
        "OFFLINE_MODE": "true",
    }
    command = ["sh", "-ec", commands.replace("open-webui serve", "exec open-webui serve")]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=tmp_path, env=variables, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until_served(f"{address}/health")
            yield address
        finally:
            process.terminate()


async def refuse(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    raise InvalidRequest("That is one question too many.")
    yield []


def test_open_webui_streams_an_answer_with_its_tools_and_shows_an_error(
    open_webui: str, backend: ScriptedBackend
) -> None:
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or "chromium"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(open_webui)
        page.get_by_role("button", name="Get started").click()
        for field, value in (("name", "Ann"), ("email", "ann@example.com"), ("password", "secret-pass-1")):
            page.locator(f"input#{field}").fill(value)
        page.get_by_role("button", name="Create Admin Account").click()
        page.get_by_role("button", name="Okay, Let's Go!").click()
        ask(page, "What is the time?")
        expect(page.locator(".chat-assistant").last).to_contain_text(ANSWER, timeout=20_000)
        assert tools_ran(backend)
        backend.script = refuse
        ask(page, "And now?")
        expect(page.get_by_text("That is one question too many.").first).to_be_visible(timeout=20_000)
        browser.close()


def ask(page: Page, text: str) -> None:
    page.locator("#chat-input").click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def test_every_recipe_is_run_or_says_that_it_is_not() -> None:
    unknown = set(SECTIONS) - set(RECIPES) - NOT_RUN - ELSEWHERE
    assert not unknown
    for name in NOT_RUN:
        assert "Not run by a test" in SECTIONS[name]
