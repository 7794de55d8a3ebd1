"""File contents: mounts (an app's source), large payloads, and a volume's blocks, stored by sha256.

The client puts and gets large ones over plain HTTP, as it would with S3: `BlobStore` is that server too.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from grpclib import Status
from modal_proto import api_pb2

from compat_tests.modal_emulator.objects import new_id
from compat_tests.modal_emulator.rpc import Caller, RPCError, not_found

BLOCK_SIZE = 8 * 1024 * 1024  # of a volume of version 2

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class BlobStore:
    """Contents under their sha256 in hex, and an ASGI app by which they are put and got."""

    root: Path
    base_url: str = ""

    def url(self, digest: str) -> str:
        return f"{self.base_url}/{digest}"

    def has(self, digest: str) -> bool:
        return (self.root / digest).exists()

    def read(self, digest: str) -> bytes:
        if not self.has(digest):
            raise not_found(f"Blob {digest}")
        return (self.root / digest).read_bytes()

    def write(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.root / digest).write_bytes(data)
        return digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """PUT /<sha256> checks what it is given; GET /<sha256>."""
        digest = scope["path"].strip("/")
        body = await _read_body(receive)
        if scope["method"] == "PUT":
            matches = self.write(body) == digest
            etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
            await _respond(send, 200 if matches else 400, digest.encode(), etag)
        elif self.has(digest):
            await _respond(send, 200, self.read(digest))
        else:
            await _respond(send, 404, b"no such blob")


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _respond(send: Send, status: int, body: bytes, etag: str = "") -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"etag", f'"{etag}"'.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass(slots=True)
class BlobService:
    """The RPCs about blobs and mounts."""

    store: BlobStore
    mounts: dict[str, list[api_pb2.MountFile]] = field(default_factory=dict)

    async def BlobCreate(self, request: api_pb2.BlobCreateRequest, _: Caller) -> api_pb2.BlobCreateResponse:
        digest = base64.b64decode(request.content_sha256_base64).hex()
        urls = api_pb2.UploadUrlList(items=[self.store.url(digest)])
        return api_pb2.BlobCreateResponse(blob_ids=[digest], upload_urls=urls)

    async def BlobGet(self, request: api_pb2.BlobGetRequest, _: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=self.store.url(request.blob_id))

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [digest for digest in request.sha256_hex_hashes if not self.store.has(digest)]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(
        self, request: api_pb2.MountPutFileRequest, _: Caller
    ) -> api_pb2.MountPutFileResponse:
        given = request.WhichOneof("data_oneof") == "data"
        if given and self.store.write(request.data) != request.sha256_hex:
            raise RPCError(Status.INVALID_ARGUMENT, "The file does not have the sha256 it was put under")
        return api_pb2.MountPutFileResponse(exists=self.store.has(request.sha256_hex))

    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest, _: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        """A mount by name is modal's own (the client, a standalone Python): containers have those."""
        mount_id = new_id("mo")
        self.mounts[mount_id] = list(request.files)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=digest)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    def unpack(self, mount_id: str, root: Path, prefix: str = "/") -> None:
        """Write a mount's files under `root`, as a container would find them under `prefix`."""
        for file in self.mounts.get(mount_id, []):
            target = root / (PurePosixPath(prefix) / file.filename).as_posix().lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.store.read(file.sha256_hex))
