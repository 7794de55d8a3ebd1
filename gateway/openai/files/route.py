"""POST, GET and DELETE /v1/files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse
from typing_extensions import TypedDict

from gateway.deps import ExchangeDep
from gateway.errors import APIError, invalid, unsupported
from gateway.openai.batch_runner import Fresh, runner_of
from gateway.openai.file_store import FileObject, FileStore, Page, page

SHORTEST, LONGEST = 3600, 30 * 24 * 3600  # seconds that a client may have a file kept, by OpenAI's reference
_CHUNK = 1 << 20

router = APIRouter(prefix="/files", tags=["files"], dependencies=[Fresh])


class DeletedFile(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


def _store(request: Request) -> FileStore:
    store: FileStore = request.app.state.files
    return store


@router.post("")
async def upload_file(
    request: Request,
    exchange: ExchangeDep,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form()],
    anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]")] = None,
) -> FileObject:
    """A file of requests, for a batch: a line of JSON each."""
    store = _store(request)
    if purpose != "batch":
        raise unsupported("purpose", f"files are kept for batches alone. Send 'batch', not {purpose!r}.")
    if anchor not in (None, "created_at"):
        raise invalid(
            "Invalid value for 'expires_after.anchor': only 'created_at' is.", "expires_after.anchor"
        )
    if seconds is not None and not SHORTEST <= seconds <= LONGEST:
        message = f"Invalid value for 'expires_after.seconds': it should be from {SHORTEST} to {LONGEST}."
        raise invalid(message, "expires_after.seconds")
    most = exchange.gateway.settings.file_mb << 20
    if file.size is None or file.size > most:
        message = f"The file is larger than the {most >> 20} MiB that one may be. Split it, or raise FILE_MB."
        raise APIError(413, message, param="file", code="file_too_large")
    await asyncio.to_thread(store.room, exchange.owner, file.size)
    upload = store.upload()
    try:
        await asyncio.to_thread(_copy, file, upload)
        name = Path(file.filename or "upload.jsonl").name
        kept = await asyncio.to_thread(store.add, exchange.owner, upload, name, "batch", seconds)
    finally:
        upload.unlink(missing_ok=True)
    await runner_of(request).commit()
    return kept


def _copy(file: UploadFile, target: Path) -> None:
    with target.open("wb") as output:
        while chunk := file.file.read(_CHUNK):
            output.write(chunk)


@router.get("")
async def list_files(
    request: Request,
    exchange: ExchangeDep,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Page:
    """The files of this key."""
    files = await asyncio.to_thread(lambda: list(_store(request).of(exchange.owner)))
    wanted = [each for each in files if purpose in (None, each["purpose"])]
    return page(wanted if order == "desc" else wanted[::-1], limit, after)


@router.get("/{file_id}")
async def retrieve_file(file_id: str, request: Request, exchange: ExchangeDep) -> FileObject:
    """What is told of a file."""
    return await asyncio.to_thread(_store(request).find, exchange.owner, file_id)


@router.delete("/{file_id}")
async def delete_file(file_id: str, request: Request, exchange: ExchangeDep) -> DeletedFile:
    """A batch that reads from it fails."""
    store = _store(request)
    await asyncio.to_thread(store.find, exchange.owner, file_id)
    await asyncio.to_thread(store.delete, exchange.owner, file_id)
    await runner_of(request).commit()
    return {"id": file_id, "object": "file", "deleted": True}


_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("/{file_id}/content", response_class=FileResponse, responses=_CONTENT)
async def file_content(file_id: str, request: Request, exchange: ExchangeDep) -> FileResponse:
    """The file itself."""
    store = _store(request)
    file = await asyncio.to_thread(store.find, exchange.owner, file_id)
    path = store.content(exchange.owner, file_id)
    return FileResponse(path, media_type="application/octet-stream", filename=file["filename"])
