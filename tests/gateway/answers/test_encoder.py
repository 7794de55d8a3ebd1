"""An API with a wire format of its own brings an encoder, and nothing else has to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx
import pytest
from fastapi import APIRouter, Response

from gateway.answers.encoder import Encoder
from gateway.answers.respond import Asked, respond
from gateway.answers.whole import WholeAnswer
from gateway.app import create_app
from gateway.deps import ExchangeDep
from gateway.errors import APIError
from gateway.settings import GatewaySettings
from tests.gateway.asking import never_ending, raising
from tests.serving import ScriptedBackend, listening
from worker.protocol import ChatRequest, Event, TextDelta, WorkerFailed


class NamedEvents(Encoder):
    def whole(self, answer: WholeAnswer) -> bytes:
        return b'"%s"' % "".join(answer.choices[0].text).encode()

    def opening(self) -> bytes:
        return b"event: start\ndata: {}\n\n"

    def events(self, events: Iterable[Event]) -> bytes:
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        return b"event: text\ndata: %s\n\n" % text.encode() if text else b""

    def error(self, error: APIError) -> bytes:
        return b"event: error\ndata: %s\n\n" % error.message.encode()

    def end(self) -> bytes:
        return b"event: stop\ndata: {}\n\n"

    def heartbeat(self) -> bytes:
        return b"event: ping\ndata: {}\n\n"


router = APIRouter()


@router.post("/named")
async def named(exchange: ExchangeDep, stream: bool) -> Response:
    return await respond(exchange, Asked(ChatRequest(exchange.id, "m", [], stream=stream)), NamedEvents())


@pytest.fixture
def client(backend: ScriptedBackend) -> Iterator[httpx.Client]:
    settings = GatewaySettings(heartbeat_seconds=0.05)
    app = create_app(backend, settings)
    app.include_router(router)
    with listening(app, settings) as url, httpx.Client(base_url=url) as client:
        yield client


def named_events(response: httpx.Response) -> list[str]:
    """Without heartbeats, of which a slow machine sends more."""
    events = response.text.removesuffix("\n\n").split("\n\n")
    return [event.replace("\ndata:", "") for event in events if not event.startswith("event: ping")]


def test_every_byte_of_an_answer_is_the_encoders(client: httpx.Client) -> None:
    assert client.post("/named", params={"stream": False}).json() == "Hello"
    streamed = client.post("/named", params={"stream": True})
    assert named_events(streamed) == ["event: start {}", "event: text Hello", "event: stop {}"]


def test_so_are_heartbeats(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = never_ending
    with client.stream("POST", "/named", params={"stream": True}) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(7)][-1] == "event: ping"


def test_so_are_errors_after_the_first_byte(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script = raising(WorkerFailed("The engine has stopped."), after=1)
    streamed = client.post("/named", params={"stream": True})
    assert named_events(streamed)[-1] == "event: error The engine has stopped."
