"""Volumes: each is a directory, with the RPCs by which the client puts, lists and gets files."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclib import Status
from modal_proto import api_pb2

from compat_tests.modal_emulator.blobs import BLOCK_SIZE, BlobStore
from compat_tests.modal_emulator.objects import new_id
from compat_tests.modal_emulator.rpc import Caller, RPCError, not_found
from compat_tests.modal_emulator.storage import ANONYMOUS, CREATING, refuse_existing


@dataclass(slots=True)
class VolumeService:
    """Every volume is a plain directory that all its containers share, so a write shows at once:
    Modal's commit and reload are answered, but what they would hide is not hidden."""

    root: Path
    blobs: BlobStore
    volumes: dict[str, api_pb2.VolumeMetadata] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The directory behind the volume of that name; made if need be, as a test fills it first."""
        directory = self.root / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def directory(self, volume_id: str) -> Path:
        if volume_id not in self.volumes:
            raise not_found(f"Volume {volume_id}")
        return self.path(self.volumes[volume_id].name)

    def describe(self, object_id: str) -> api_pb2.Object:
        """Any object that a function depends on; only volumes have metadata that containers read."""
        return api_pb2.Object(object_id=object_id, volume_metadata=self.volumes.get(object_id))

    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest, _: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        name = request.deployment_name or new_id("volume")
        volume_id = f"vo-{name}"
        exists = volume_id in self.volumes or (self.root / name).exists()
        if exists:
            refuse_existing("Volume", name, request.object_creation_type)
        elif request.object_creation_type not in CREATING + ANONYMOUS:
            raise not_found(f"Volume {name!r}")
        version = request.version or api_pb2.VOLUME_FS_VERSION_V1
        self.volumes.setdefault(volume_id, api_pb2.VolumeMetadata(name=name, version=version))
        self.path(name)
        metadata = self.volumes[volume_id]
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume_id, version=metadata.version, metadata=metadata
        )

    async def VolumeCommit(
        self, request: api_pb2.VolumeCommitRequest, _: Caller
    ) -> api_pb2.VolumeCommitResponse:
        self.directory(request.volume_id)
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest, _: Caller) -> None:
        self.directory(request.volume_id)

    async def VolumeList(self, request: api_pb2.VolumeListRequest, _: Caller) -> api_pb2.VolumeListResponse:
        items = [
            api_pb2.VolumeListItem(label=metadata.name, volume_id=volume_id, metadata=metadata)
            for volume_id, metadata in self.volumes.items()
        ]
        return api_pb2.VolumeListResponse(items=items)

    async def VolumeHeartbeat(self, request: api_pb2.VolumeHeartbeatRequest, _: Caller) -> None:
        return None

    # Files

    async def VolumePutFiles(self, request: api_pb2.VolumePutFilesRequest, _: Caller) -> None:
        """Version 1: the contents came before, through MountPutFile."""
        directory = self.directory(request.volume_id)
        for file in request.files:
            target = _inside(directory, file.filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.blobs.read(file.sha256_hex))

    async def VolumePutFiles2(
        self, request: api_pb2.VolumePutFiles2Request, _: Caller
    ) -> api_pb2.VolumePutFiles2Response:
        """Version 2: says which blocks are missing; asked again once they are there, it writes."""
        directory = self.directory(request.volume_id)
        if request.disallow_overwrite_existing_files:
            for file in request.files:
                if _inside(directory, file.path).exists():
                    raise RPCError(Status.ALREADY_EXISTS, f"{file.path} already exists")
        missing = list(self._missing_blocks(request))
        if not missing:
            for file in request.files:
                self._write(_inside(directory, file.path), file)
        return api_pb2.VolumePutFiles2Response(missing_blocks=missing)

    def _missing_blocks(
        self, request: api_pb2.VolumePutFiles2Request
    ) -> Iterator[api_pb2.VolumePutFiles2Response.MissingBlock]:
        for file_index, file in enumerate(request.files):
            for block_index, block in enumerate(file.blocks):
                digest = block.contents_sha256.hex()
                if not self.blobs.has(digest):
                    yield api_pb2.VolumePutFiles2Response.MissingBlock(
                        file_index=file_index, block_index=block_index, put_url=self.blobs.url(digest)
                    )

    def _write(self, target: Path, file: Any) -> None:
        """Blocks come without their trailing zeros, so each is written at its own offset."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as output:
            for index, block in enumerate(file.blocks):
                output.seek(index * BLOCK_SIZE)
                output.write(self.blobs.read(block.contents_sha256.hex()))
            output.truncate(file.size)
        target.chmod(file.mode or 0o644)

    async def VolumeListFiles2(
        self, request: api_pb2.VolumeListFiles2Request, _: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        yield api_pb2.VolumeListFiles2Response(entries=self._list(request))

    async def VolumeListFiles(
        self, request: api_pb2.VolumeListFilesRequest, _: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        yield api_pb2.VolumeListFilesResponse(entries=self._list(request))

    def _list(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> list[api_pb2.FileEntry]:
        directory = self.directory(request.volume_id).resolve()
        start = _inside(directory, request.path)
        if not start.exists():
            raise not_found(f"{request.path} in the volume")
        if start.is_file():
            return [_entry(start, directory)]
        return [
            _entry(each, directory)
            for each in sorted(start.rglob("*") if request.recursive else start.iterdir())
        ]

    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request, _: Caller
    ) -> api_pb2.VolumeGetFile2Response:
        path = _inside(self.directory(request.volume_id), request.path)
        if not path.is_file():
            raise not_found(f"{request.path} in the volume")
        data = path.read_bytes()
        blocks = [data[start : start + BLOCK_SIZE] for start in range(0, len(data), BLOCK_SIZE)]
        urls = [self.blobs.url(self.blobs.write(block)) for block in blocks]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=len(data), start=0, len=len(data))

    async def VolumeRemoveFile2(self, request: api_pb2.VolumeRemoveFile2Request, _: Caller) -> None:
        path = _inside(self.directory(request.volume_id), request.path)
        if path.is_dir() and request.recursive:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
        else:
            raise not_found(f"{request.path} in the volume")


def _inside(directory: Path, path: str) -> Path:
    target = (directory / path.lstrip("/")).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise RPCError(Status.INVALID_ARGUMENT, f"{path} leaves the volume")
    return target


def _entry(path: Path, directory: Path) -> api_pb2.FileEntry:
    stat = path.stat()
    kind = api_pb2.FileEntry.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FILE
    return api_pb2.FileEntry(
        path=path.relative_to(directory).as_posix(),
        type=kind,
        mtime=int(stat.st_mtime),
        size=stat.st_size,
    )
