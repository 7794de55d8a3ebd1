"""The 50 questions to a deployment: order, failures, and what is written and summed up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from benchmarks import questions, results
from benchmarks.questions import Answer, Mode, Result, Route
from benchmarks.results import RunFile
from tests.benchmarks.fake_server import ANSWER


def collect(ask: questions.Ask, mode: Mode, number: int = 3) -> list[Result]:
    async def all_of_them() -> list[Result]:
        texts = [f"question {index}" for index in range(number)]
        return [result async for result in questions.run(ask, texts, mode, pause=0.0)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(("mode", "at_once"), [(Mode.sequential, 1), (Mode.overlapping, 3)])
def test_overlapping_questions_do_not_wait_for_answers(mode: Mode, at_once: int) -> None:
    waiting, most = 0, 0
    all_here = asyncio.Event()

    async def ask(question: str) -> Answer:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        if waiting == at_once:
            all_here.set()
        await all_here.wait()
        waiting -= 1
        return Answer("answer", 0.1)

    assert sorted(result.number for result in collect(ask, mode)) == [1, 2, 3]
    assert most == at_once


def test_a_lost_connection_is_one_questions_failure() -> None:
    async def ask(question: str) -> Answer:
        if question == "question 1":
            raise httpx.ReadError("gone")
        return Answer("answer")

    found = collect(ask, Mode.sequential)
    assert [result.answer.error is None for result in found] == [True, False, True]
    assert questions.summary(found)["failures"] == 1


def test_the_summary_is_of_whole_answers_and_the_total_of_everything() -> None:
    found = [
        Result(1, "a", Answer("x", 1.0), at=0.0, seconds=2.0),
        Result(2, "b", Answer("y", 3.0), at=3.0, seconds=4.0),
        Result(3, "c", Answer(error="broke off"), at=8.0, seconds=60.0),
    ]
    summary = questions.summary(found)
    assert {key: summary[key] for key in ("mean", "min", "max", "total", "failures", "first_token_p50")} == {
        "mean": 3.0,
        "min": 2.0,
        "max": 4.0,
        "total": 68.0,
        "failures": 1,
        "first_token_p50": 2.0,
    }
    assert questions.summary([])["mean"] is None


def deployment(request: httpx.Request) -> httpx.Response:
    if request.headers["authorization"] != "Bearer key":
        return httpx.Response(401, text="no key")
    if request.url.path == "/v1/models":
        return httpx.Response(200, json={"data": [{"id": "served"}]})
    body = json.loads(request.content)
    if request.url.path == "/generate":
        return httpx.Response(200, json={"response": f"to {body['message']}"})
    return httpx.Response(200, content=b"".join(ANSWER)) if body["model"] == "served" else httpx.Response(404)


def answer_of(route: Route, key: str = "key", model: str | None = None) -> Answer:
    async def ask() -> Answer:
        headers = {"Authorization": f"Bearer {key}"}
        transport = httpx.MockTransport(deployment)
        async with httpx.AsyncClient(base_url="http://test", headers=headers, transport=transport) as client:
            return await (await questions.asker(client, route, model, 16))("Why?")

    return asyncio.run(ask())


def test_both_routes_are_asked_as_they_want_it() -> None:
    chat = answer_of(Route.chat)
    assert (chat.text, chat.error) == ("Hello", None)
    assert chat.first_token_seconds is not None
    assert answer_of(Route.generate) == Answer("to Why?")


def test_a_refusal_is_the_answers_error() -> None:
    assert "401" in str(answer_of(Route.generate, key="wrong").error)
    assert "404" in str(answer_of(Route.chat, model="unknown").error)


def test_answers_are_shown_and_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "CACHE", tmp_path)

    async def coming() -> AsyncIterator[Result]:
        yield Result(1, "Why?", Answer("Because [of] that."), at=0.0, seconds=2.0)
        raise RuntimeError("interrupted")

    seen: list[Result] = []
    with pytest.raises(RuntimeError):
        asyncio.run(questions.show(coming(), 2, seen, RunFile("questions")))
    [file] = (tmp_path / "runs").glob("questions-*.jsonl")
    assert json.loads(file.read_text())["answer"]["text"] == seen[0].answer.text
    assert "Because [of] that." in capsys.readouterr().err
