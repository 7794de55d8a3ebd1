"""The real server as a process of its own, started as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx
import openai

START_SECONDS = 120
# A `logit_bias` against every token that ends an answer of the default model.
NEVER_ENDS = {"0": -100, "2": -100, "4": -100}


@dataclass
class Server:
    """Anything that speaks the API; `base_url` ends in /v1."""

    base_url: str = ""
    api_key: str = "unused"

    @property
    def url(self) -> str:
        return self.base_url.removesuffix("/v1")

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0)

    def model(self) -> str:
        """The id of the first model that is served."""
        with self.client() as client:
            return client.models.list().data[0].id


@dataclass(kw_only=True)
class ServerProcess(Server):
    """A running `llama-gateway serve`; `output` grows with what it prints."""

    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)
    _ended: bool = False
    _grown: threading.Condition = field(default_factory=threading.Condition)

    def printed(self) -> str:
        return "".join(self.output)

    def read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.output.append(line)
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def wait_until_printed(self, pattern: str) -> re.Match[str]:
        """The first match in all that it prints."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.printed())

        with self._grown:
            assert self._grown.wait_for(lambda: found() or self._ended, START_SECONDS), self.printed()
        match = found()
        assert match, f"the server ended without {pattern!r}:\n{self.printed()}"
        return match

    def wait_until_serving(self) -> None:
        self.base_url = self.wait_until_printed(r"Serving .* at (http\S+)")[1]


@contextlib.contextmanager
def running_server(*arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """`llama-gateway serve --port 0 …`, ready to answer; stopped by SIGTERM on leaving."""
    with starting_server(*arguments, **environment) as server:
        server.wait_until_serving()
        httpx.get(f"{server.url}/health").raise_for_status()
        yield server


@contextlib.contextmanager
def starting_server(*arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """The same, from its first moment on."""
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", *arguments]
    server = ServerProcess(process=start(command, environment))
    reader = threading.Thread(target=server.read_output)
    reader.start()
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=30)
        reader.join()
        assert server.process.stdout is not None
        server.process.stdout.close()


def start(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**clean_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def clean_environment() -> dict[str, str]:
    """Without settings that the developer's shell happens to have."""
    settings = re.compile(r"(LLM_|MODEL|API_KEYS|SYSTEM_PROMPT|HOST$|PORT$|MEM_MB|CPU_CORES)")
    kept = {name: value for name, value in os.environ.items() if not settings.match(name)}
    return {**kept, "PYTHONUNBUFFERED": "1"}
