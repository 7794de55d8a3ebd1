"""Users of a deployment, for Locust: `make load BASE_URL=https://… API_KEY=…`.

Each waits one to three seconds between messages, as a reader does:
  GenerateUser      POST /generate with one and the same message
  MessageUser       the same message to servers without that route: a whole chat completion, sampled alike
  ChatUser          /v1/chat/completions with one of the 50 questions, streaming
  ConversationUser  the same with all that was said before, four turns, then from the beginning

Streaming users report the time to the first text as a request of its own, type TTFT; their POST's time is
that of the whole answer. An answer that breaks off is a failure. Model, answer length and key come from the
environment: SERVED_MODEL (by default the first that the deployment lists), MAX_TOKENS, API_KEY.

    PYTHONPATH=. API_KEY=… locust -f benchmarks/locustfile.py --host https://… --users 100 ChatUser
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any

from locust import FastHttpUser, between, task

from benchmarks.client import Stamped
from benchmarks.replies import Reply, decode_body
from benchmarks.workload import Message, asked, questions

GENERATE_MESSAGE = "link cloud avantajları nelerdir"  # noqa: RUF001  # Turkish
# What /generate puts around the message by default (gateway/legacy/generate.py).
GENERATE_MESSAGES = asked(GENERATE_MESSAGE, "You are a helpful assistant.")
GENERATE_SAMPLING = {"temperature": 0.2, "top_p": 0.95, "top_k": 40, "min_p": 0.05}
TURNS = 4
TIMEOUT = 600.0  # seconds; Locust's own 60 would call a long wait an error
KEY = os.environ.get("API_KEY", "")
MAX_TOKENS = int(os.environ.get("MAX_TOKENS", "128"))
HEADERS = {"Authorization": f"Bearer {KEY}"} if KEY else {}


@cache
def model_of(host: str) -> str:
    """Asked for once, and not as one of the load's requests."""
    if model := os.environ.get("SERVED_MODEL"):
        return model
    request = urllib.request.Request(f"{host.rstrip('/')}/v1/models", headers=HEADERS)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        served: str = json.load(response)["data"][0]["id"]
        return served


class Caller(FastHttpUser):  # type: ignore[misc]  # Locust lives in an environment of its own
    abstract = True
    wait_time = between(1, 3)
    network_timeout = connection_timeout = TIMEOUT
    insecure = False  # a key is sent
    default_headers = HEADERS

    def chat(self, messages: list[Message]) -> Reply:
        """One streamed answer; Locust is told of it, and of its first text."""
        body = {"model": model_of(self.host), "messages": messages, "max_tokens": MAX_TOKENS, "stream": True}
        name, sent = f"chat ({type(self).__name__})", time.perf_counter()
        path = "/v1/chat/completions"
        with self.client.post(path, json=body, name=name, stream=True, catch_response=True) as response:
            if response.status_code != 200:
                return Reply(sent, sent, (), 0, f"HTTP status {response.status_code}")
            reply = decode_body(_arriving(response.stream), sent)
            response.request_meta["response_time"] = (reply.closed - sent) * 1000
            response.request_meta["response_length"] = len(reply.text)
            if reply.error:
                response.failure(reply.error)
        if reply.content_times:
            self._report_first_text(name, reply.time_to_first_token)
        return reply

    def _report_first_text(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="TTFT",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )


def _arriving(stream: Any) -> Iterator[Stamped]:
    """The body's lines as they come."""
    while line := stream.readline(b"\n"):
        yield time.perf_counter(), bytes(line)


class GenerateUser(Caller):
    @task  # type: ignore[untyped-decorator]
    def generate(self) -> None:
        self.client.post("/generate", json={"message": GENERATE_MESSAGE})


class MessageUser(Caller):
    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        body = {"model": model_of(self.host), "messages": GENERATE_MESSAGES, "max_tokens": MAX_TOKENS}
        self.client.post("/v1/chat/completions", json=body | GENERATE_SAMPLING)


class ChatUser(Caller):
    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        self.chat(asked(random.choice(questions())))


class ConversationUser(Caller):
    def on_start(self) -> None:
        self.messages = self.beginning()

    def beginning(self) -> list[Message]:
        return asked("")[:1]

    @task  # type: ignore[untyped-decorator]
    def say(self) -> None:
        """A turn that failed is forgotten; after the last one a new conversation begins."""
        message = {"role": "user", "content": random.choice(questions())}
        reply = self.chat([*self.messages, message])
        if reply.error is None:
            self.messages += [message, {"role": "assistant", "content": reply.text}]
        if len(self.messages) > 2 * TURNS:
            self.messages = self.beginning()
