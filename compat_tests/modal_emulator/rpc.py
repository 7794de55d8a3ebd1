"""The gRPC door: one handler for every RPC of modal's protocol, all funnelled into one dispatch.

Only this module knows grpclib. A service is any object with coroutine methods (or async generators, for
streams) named after RPCs; an RPC that no service has answers UNIMPLEMENTED and is logged by name.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from asyncio import BaseTransport
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream
from h2.settings import SettingCodes
from modal_proto.api_grpc import ModalClientBase

CLIENT_VERSION = "1.6.4"
MAX_STREAMS = 100_000
TASK_HEADER = "x-emulator-task-id"

log = logging.getLogger("modal_emulator")


def _is_news(record: logging.LogRecord) -> bool:
    """A container that is killed, or a poll that is given up, is a cancelled request: no news."""
    return "cancel" not in record.getMessage()


logging.getLogger("grpclib.server").addFilter(_is_news)


class UnsupportedClientError(RuntimeError):
    """The installed client speaks another version of a protocol that is private and changes."""


def check_client_version() -> None:
    """Refuse any client but the one whose private protocol was read."""
    installed = importlib.metadata.version("modal")
    if installed != CLIENT_VERSION:
        raise UnsupportedClientError(_unsupported(installed))


def _unsupported(version: str) -> str:
    return (
        f"The emulator speaks the private protocol of modal {CLIENT_VERSION}, but this client is modal "
        f"{version}. Install the one it was written for: pip install modal=={CLIENT_VERSION}"
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a container names itself in a header of ours, a client outside does not."""

    task_id: str = ""


class RPCError(Exception):
    """An error that the client sees as the modal exception of that status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def not_found(what: str) -> RPCError:
    return RPCError(Status.NOT_FOUND, f"{what} not found")


def serve(services: Sequence[object]) -> Server:
    """A server that answers every RPC from the first service that has a method of its name."""
    methods = {name: _handler(name, services) for name in ModalClientBase.__abstractmethods__}
    control_plane = type("ControlPlane", (ModalClientBase,), methods)
    return _ManyStreams([control_plane()])


class _ManyStreams(Server):
    """A container with a hundred inputs has several RPCs open for each; h2 alone would allow 100 in all."""

    def _protocol_factory(self) -> H2Protocol:
        protocol: H2Protocol = super()._protocol_factory()
        connection_made = protocol.connection_made

        def allow_many(transport: BaseTransport) -> None:
            connection_made(transport)
            protocol.connection._connection.update_settings(
                {SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS}
            )
            protocol.connection.flush()

        protocol.connection_made = allow_many  # type: ignore[method-assign]
        return protocol


def _handler(name: str, services: Sequence[object]) -> Callable[..., Awaitable[None]]:
    method = next((found for service in services if (found := getattr(service, name, None))), None)

    async def handle(_: object, stream: Stream[Any, Any]) -> None:
        try:
            await _answer(name, method, stream)
        except RPCError as error:
            raise GRPCError(error.status, str(error)) from error

    return handle


async def _answer(name: str, method: Callable[..., Any] | None, stream: Stream[Any, Any]) -> None:
    caller = _identify(stream)
    request = await stream.recv_message()
    if method is None:
        log.warning("%s is not emulated", name)
        raise RPCError(Status.UNIMPLEMENTED, f"The emulator does not know {name}")
    log.debug("%s from %s", name, caller.task_id or "client")
    answer = method(request, caller)
    if inspect.isasyncgen(answer):
        async for message in answer:
            await stream.send_message(message)
    else:
        await stream.send_message(await answer or Empty())


def _identify(stream: Stream[Any, Any]) -> Caller:
    metadata: Mapping[str, object] = stream.metadata or {}
    version = str(metadata.get("x-modal-client-version", "of unknown version"))
    if version != CLIENT_VERSION:
        raise RPCError(Status.FAILED_PRECONDITION, _unsupported(version))
    return Caller(task_id=str(metadata.get(TASK_HEADER, "")))
