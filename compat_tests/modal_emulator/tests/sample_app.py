"""The app that the emulator's own tests deploy: one of everything that an app on Modal has."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import modal
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = modal.App("sample")
image = modal.Image.debian_slim(python_version="3.11").env({"GREETING": "hello world"})
volume = modal.Volume.from_name("sample-data", create_if_missing=True, version=2)
secret = modal.Secret.from_name("sample-secret", required_keys=["SAMPLE_KEY"])
queue = modal.Queue.from_name("sample-queue", create_if_missing=True)
VERSION = os.environ.get("SAMPLE_VERSION", "1")
MIN_CONTAINERS = int(os.environ.get("SAMPLE_MIN_CONTAINERS", "0"))
DATA = Path("/sample-data")


@app.cls(
    image=image.env({"SAMPLE_VERSION": VERSION}),
    volumes={str(DATA): volume},
    secrets=[secret],
    max_containers=3,
    scaledown_window=2,
    timeout=100,
)
@modal.concurrent(max_inputs=2)
class Worker:
    @modal.enter()
    def load(self) -> None:
        self.greeting = (DATA / "greeting.txt").read_text()
        self.pid = os.getpid()
        print("worker entered")

    @modal.exit()
    def leave(self) -> None:
        with (DATA / "left.txt").open("a") as file:
            file.write(f"{self.pid}\n")

    @modal.method()
    async def describe(self) -> dict[str, Any]:
        return {
            "greeting": self.greeting,
            "key": os.environ["SAMPLE_KEY"],
            "env": os.environ["GREETING"],
            "version": os.environ["SAMPLE_VERSION"],
            "pid": self.pid,
        }

    @modal.method()
    async def count(self, up_to: int, delay: float = 0.0) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number
            await asyncio.sleep(delay)

    @modal.method()
    async def hold(self, partition: str) -> str:
        """Take up a slot until somebody says a word."""
        await queue.put.aio("holding", partition=f"{partition}-ready")
        word = await queue.get.aio(partition=partition)
        return f"{word} {self.pid}"

    @modal.method()
    async def words(self, partition: str) -> AsyncIterator[str]:
        """Each word as it is said, up to "end"."""
        while (word := await queue.get.aio(partition=partition)) != "end":
            yield str(word)

    @modal.method()
    async def cancelled_or(self, partition: str) -> str:
        try:
            await queue.put.aio("started", partition=f"{partition}-ready")
            return str(await queue.get.aio(partition=partition))
        except asyncio.CancelledError:
            await queue.put.aio("cancelled", partition=f"{partition}-ready")
            raise

    @modal.method()
    async def retire(self) -> int:
        """Have this container take no more inputs, and end when those it has are done."""
        await modal.experimental.stop_fetching_inputs.aio()
        return self.pid

    @modal.method()
    async def fail(self) -> None:
        raise ValueError("as asked")


@app.function(image=image, secrets=[secret], min_containers=MIN_CONTAINERS)
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def web() -> Any:
    api = FastAPI()
    worker = Worker()

    @api.get("/describe")
    async def describe() -> Any:
        return await worker.describe.remote.aio()

    @api.post("/echo")
    async def echo(request: Request) -> Any:
        body = await request.body()
        return {
            "size": len(body),
            "query": dict(request.query_params),
            "headers": dict(request.headers),
            "scope": sorted(request.scope),
        }

    @api.get("/count")
    async def count(up_to: int, delay: float = 0.0) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            async for number in worker.count.remote_gen.aio(up_to, delay):
                yield f"data: {json.dumps(number)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @api.get("/words")
    async def words(partition: str) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            async for word in worker.words.remote_gen.aio(partition):
                yield f"data: {word}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @api.get("/until-disconnect")
    async def until_disconnect(partition: str) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            try:
                while True:
                    yield "data: again\n\n"
                    await asyncio.sleep(0.02)
            finally:
                asyncio.get_running_loop().create_task(queue.put.aio("disconnected", partition=partition))

        return StreamingResponse(events(), media_type="text/event-stream")

    return api


@app.function(image=image, retries=modal.Retries(max_retries=1, initial_delay=0.0))
def fails_once(partition: str) -> int:
    """The first attempt fails; the second finds that there was one."""
    attempts = modal.Dict.from_name("sample-dict", create_if_missing=True)
    number = attempts.get(partition, 0) + 1
    attempts[partition] = number
    if number == 1:
        raise RuntimeError("the first attempt")
    return int(number)


@app.function(image=image, max_containers=2)
def double(value: Any) -> Any:
    return value + value


@app.function(image=image)
def squares(up_to: int) -> Iterator[int]:
    print(f"squares up to {up_to}")
    for number in range(up_to):
        yield number * number


@app.local_entrypoint()
def main(up_to: int = 3) -> None:
    print("squares are", list(squares.remote_gen(up_to)))
