"""Modal's web ingress: an HTTP server for each web function, whose requests become inputs.

An ASGI app itself, served by uvicorn: it passes ASGI messages on to the container and back, one by one as
they come. What is not emulated: the 150 s limit with its redirect, proxy authentication, websockets, and
the buffering that Modal does for answers that are not `text/event-stream`.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from modal_proto import api_pb2

from compat_tests.modal_emulator.blobs import BlobStore, Receive, Scope, Send
from compat_tests.modal_emulator.calls import CallService
from compat_tests.modal_emulator.objects import Call


@dataclass(slots=True)
class Ingress:
    """The requests to one web function (or, with a method's name, to one of a class)."""

    calls: CallService
    blobs: BlobStore
    function_id: str
    method_name: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.calls.apps.function(self.function_id).is_published:
            await _respond(send, 404, "modal-http: the app is still being deployed")
            return
        call = self.calls.open_call(self.function_id, is_web=True)
        # The first message must be there before the input runs: the container waits 5 s for it.
        put_in(call, api_pb2.Asgi(http_request=_request_body(await receive())))
        self.calls.put_input(call, self._payload(scope))
        feeding = asyncio.create_task(_feed(call, receive))
        try:
            await self._answer(call, send)
        finally:
            feeding.cancel()

    def _payload(self, scope: Scope) -> api_pb2.FunctionInput:
        return api_pb2.FunctionInput(
            args=pickle.dumps(((modal_scope(scope),), {})),
            data_format=api_pb2.DATA_FORMAT_PICKLE,
            method_name=self.method_name,
        )

    async def _answer(self, call: Call, send: Send) -> None:
        started = False
        async for message in self._messages(call):
            started = True
            await send(message)
            if message["type"] == "http.response.body" and not message["more_body"]:
                return
        if not started:
            await _respond(send, 500, _failure(call))
        elif call.outputs[-1].result.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            raise ConnectionAbortedError("The app failed, or its container was lost, in mid-answer")

    async def _messages(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """What the app sends, until the input is finished and all of it has been read."""
        last_index = 0
        while True:
            for chunk in call.data_out.after(last_index):
                last_index = chunk.index
                data = self.blobs.read(chunk.data_blob_id) if chunk.data_blob_id else chunk.data
                if message := _to_asgi(api_pb2.Asgi.FromString(data)):
                    yield message
            if last_index < len(call.data_out):
                continue
            if not call.num_unfinished:
                return
            await call.changed.wait()


def modal_scope(scope: Scope) -> dict[str, Any]:
    """The keys that modal's own codec carries, and no others: an app that reads `server` or `asgi` out of
    the scope would find them missing there too."""
    return {
        "type": "http",
        "http_version": scope["http_version"],
        "method": scope["method"],
        "scheme": scope["scheme"],
        "path": scope["path"],
        "query_string": scope["query_string"],
        "headers": list(scope["headers"]),
        "client": scope["client"],
        "extensions": {"http.response.trailers": {}},
    }


def put_in(call: Call, message: api_pb2.Asgi) -> None:
    call.data_in.append(message.SerializeToString(), api_pb2.DATA_FORMAT_ASGI)


def _request_body(message: Any) -> api_pb2.Asgi.HttpRequest:
    return api_pb2.Asgi.HttpRequest(body=message.get("body", b""), more_body=message.get("more_body", False))


async def _feed(call: Call, receive: Receive) -> None:
    """Pass on the rest of the body, and the client's hanging up."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            put_in(call, api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))
            return
        put_in(call, api_pb2.Asgi(http_request=_request_body(message)))


def _to_asgi(message: api_pb2.Asgi) -> dict[str, Any] | None:
    kind = message.WhichOneof("type")
    if kind == "http_response_start":
        start = message.http_response_start
        pairs = list(zip(start.headers[::2], start.headers[1::2], strict=True))
        return {"type": "http.response.start", "status": start.status, "headers": pairs}
    if kind == "http_response_body":
        body = message.http_response_body
        return {"type": "http.response.body", "body": body.body, "more_body": body.more_body}
    return None


def _failure(call: Call) -> str:
    text = "modal-http: internal error: the function ended without an answer"
    if call.outputs and call.outputs[-1].result.exception:
        text += f"\n{call.outputs[-1].result.exception}"
    return text


async def _respond(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
