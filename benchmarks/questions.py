"""The 50 questions to a deployment, one a second: what does somebody see who asks them?

`sequential` waits for each answer, and a second more, before the next question; `overlapping` asks every
second, whether or not the last answer is there. Answers are shown as they end, and written line by line; the
very last line of stdout is one JSON document: mean, minimum, maximum and total seconds, and failures. Ctrl-C
sums up what there is.

    API_KEY=… python -m benchmarks.questions --base-url https://… --mode overlapping

`--route generate` asks POST /generate, which does not stream: then nothing is known of first tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.replies import decode_body
from benchmarks.results import RunFile, finish
from benchmarks.summary import percentile
from benchmarks.workload import endless_questions

TIMEOUT = 600.0  # seconds
SHOWN = 300  # characters of an answer


class Mode(StrEnum):
    sequential = "sequential"
    overlapping = "overlapping"


class Route(StrEnum):
    chat = "chat"
    generate = "generate"


@dataclass(frozen=True, slots=True)
class Answer:
    text: str = ""
    first_token_seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """`number` counts from 1; `at` is when it was sent, in seconds since the beginning."""

    number: int
    question: str
    answer: Answer
    at: float
    seconds: float


Ask = Callable[[str], Awaitable[Answer]]


def generate(client: httpx.AsyncClient) -> Ask:
    async def ask(question: str) -> Answer:
        response = await client.post("/generate", json={"message": question})
        if response.status_code != 200:
            return Answer(error=f"HTTP status {response.status_code}: {response.text[:SHOWN]}")
        return Answer(response.json()["response"])

    return ask


def chat(client: httpx.AsyncClient, model: str, max_tokens: int | None) -> Ask:
    async def ask(question: str) -> Answer:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
        body |= {"stream": True} | ({"max_tokens": max_tokens} if max_tokens else {})
        sent = time.perf_counter()
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                message = (await response.aread()).decode()[:SHOWN]
                return Answer(error=f"HTTP status {response.status_code}: {message}")
            pieces = [(time.perf_counter(), data) async for data in response.aiter_bytes()]
        reply = decode_body(pieces, sent)
        return Answer(reply.text, reply.time_to_first_token if reply.content_times else None, reply.error)

    return ask


async def run(ask: Ask, questions: Sequence[str], mode: Mode, pause: float = 1.0) -> AsyncIterator[Result]:
    """Results in the order in which the answers end; a network failure is that question's."""
    start = time.perf_counter()

    async def one(number: int, question: str, wait: float) -> Result:
        await asyncio.sleep(wait)
        sent = time.perf_counter()
        try:
            answer = await ask(question)
        except httpx.HTTPError as error:
            answer = Answer(error=repr(error))
        return Result(number, question, answer, sent - start, time.perf_counter() - sent)

    numbered = list(enumerate(questions, 1))
    if mode is Mode.sequential:
        for number, question in numbered:
            yield await one(number, question, pause if number > 1 else 0.0)
        return
    together = [asyncio.ensure_future(one(number, text, (number - 1) * pause)) for number, text in numbered]
    for next_result in asyncio.as_completed(together):
        yield await next_result


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Seconds of whole answers; `total` is from the first question to the last answer."""
    good = [result for result in results if result.answer.error is None]
    seconds = [result.seconds for result in good]
    first = [each.answer.first_token_seconds for each in good if each.answer.first_token_seconds is not None]
    return {
        "questions": len(results),
        "failures": len(results) - len(good),
        "mean": sum(seconds) / len(seconds) if seconds else None,
        "min": min(seconds, default=None),
        "max": max(seconds, default=None),
        "total": max((result.at + result.seconds for result in results), default=0.0),
        "p50": percentile(seconds, 50),
        "p95": percentile(seconds, 95),
        "first_token_p50": percentile(first, 50),
        "first_token_p95": percentile(first, 95),
    }


async def show(results: AsyncIterator[Result], total: int, seen: list[Result], file: RunFile) -> None:
    """A progress bar below the answers so far, on stderr; each is written to `file` and added to `seen`."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("questions", total=total)
        async for result in results:
            seen.append(result)
            file.add(**asdict(result))
            answer = result.answer
            text = (
                f"[red]{escape(answer.error)}[/red]" if answer.error else escape(answer.text[:SHOWN].strip())
            )
            console.print(
                f"[bold]{result.number}. {escape(result.question)}[/bold] ({result.seconds:.1f} s)\n{text}\n"
            )
            progress.advance(bar)


async def asker(client: httpx.AsyncClient, route: Route, model: str | None, max_tokens: int | None) -> Ask:
    """How one question is asked; a model that is not named is the first that the deployment lists."""
    if route is Route.generate:
        return generate(client)
    if model is None:
        response = await client.get("/v1/models")
        model = response.raise_for_status().json()["data"][0]["id"]
    return chat(client, model, max_tokens)


def main(
    base_url: Annotated[str, typer.Option(envvar="BASE_URL", help="of the deployment, without /v1")],
    api_key: Annotated[str, typer.Option(envvar="API_KEY", help="better in the environment than here")] = "",
    mode: Mode = Mode.sequential,
    route: Route = Route.chat,
    number: Annotated[int, typer.Option(help="questions; beyond 50 they come again, numbered")] = 50,
    model: Annotated[str | None, typer.Option(help="by default the first that the deployment lists")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="of an answer on the route chat")] = None,
) -> None:
    """Put the 50 questions to a deployment, one a second."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    seen: list[Result] = []

    async def ask_all() -> None:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=TIMEOUT) as client:
            ask = await asker(client, route, model, max_tokens)
            results = run(ask, list(islice(endless_questions(), number)), mode)
            await show(results, number, seen, RunFile(f"questions-{mode}"))

    try:
        asyncio.run(ask_all())
    except httpx.HTTPError as error:
        raise typer.BadParameter(f"{base_url} does not answer: {error}", param_hint="--base-url") from None
    except KeyboardInterrupt:
        pass  # summed up is what there is
    finish(f"questions-{mode}", {"mode": mode, "route": route, "base_url": base_url, **summary(seen)})


if __name__ == "__main__":
    typer.run(main)
