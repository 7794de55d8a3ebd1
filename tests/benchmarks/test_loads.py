"""The loads against a fake server: who is asked what, when, and what counts as an error."""

from __future__ import annotations

import asyncio
import json

import pytest

from benchmarks.client import Recording, chat_request, closed_loop
from benchmarks.conversations import Conversations
from benchmarks.loads import Questions
from benchmarks.replies import Reply, decode
from benchmarks.tool_calls import SCHEMAS, TOOLS, ToolCalls
from benchmarks.workload import QUESTIONS_FILE, Workload, questions
from tests.benchmarks.fake_server import ANSWER, Body, serving, tool_call

NO_PAUSE = (0.0, 0.0)


def test_there_are_fifty_different_questions_half_of_them_turkish() -> None:
    rows = [json.loads(line) for line in QUESTIONS_FILE.read_text().splitlines()]
    assert len(set(questions())) == len({row["id"] for row in rows}) == 50
    assert sum(row["lang"] == "tr" for row in rows) == sum(row["lang"] == "en" for row in rows) == 25
    assert all(8 <= len(row["question"].split()) <= 40 for row in rows)


def test_no_two_requests_of_a_run_are_equal() -> None:
    requests = Workload().requests("model")
    assert len({next(requests) for _ in range(200)}) == 200


def test_closed_loop_sends_every_request_once_and_keeps_all_clients_busy() -> None:
    running, most = 0, 0
    numbers = []

    async def run() -> list[Recording]:
        all_here = asyncio.Event()

        async def answer(body: Body) -> tuple[bytes, ...]:
            nonlocal running, most
            numbers.append(body["number"])
            running += 1
            most = max(most, running)
            if running == 3:
                all_here.set()
            await all_here.wait()  # nobody is answered until three are here at once
            running -= 1
            return ANSWER

        async with serving(answer) as server:
            requests = [chat_request({"number": number}) for number in range(9)]
            return await closed_loop(server.port, requests, clients=3)

    recordings = asyncio.run(run())
    assert [decode(recording).error for recording in recordings] == [None] * 9
    assert (most, sorted(numbers)) == (3, list(range(9)))
    assert sum(recording.opening for recording in recordings) == 3


def test_a_refused_connection_is_an_error_and_not_a_crash() -> None:
    [recording] = asyncio.run(closed_loop(1, [chat_request({})], clients=1))
    assert decode(recording).error


def run_load(
    load: Questions | Conversations | ToolCalls, *answers: tuple[bytes, ...]
) -> tuple[list[Body], list[Reply]]:
    """The bodies that came, and the replies; the last answer is given from then on."""
    bodies: list[Body] = []

    async def answer(body: Body) -> tuple[bytes, ...]:
        bodies.append(body)
        return answers[min(len(bodies), len(answers)) - 1]

    async def run() -> list[Reply]:
        async with serving(answer) as server:
            return await load.run(server)

    return bodies, asyncio.run(run())


def test_a_conversation_sends_all_that_was_said_before() -> None:
    bodies, replies = run_load(Conversations(1, Workload(), turns=3, think=NO_PAUSE), ANSWER)
    roles = [[message["role"] for message in body["messages"]] for body in bodies]
    assert roles == [["system", "user", *["assistant", "user"] * turn] for turn in range(3)]
    assert bodies[2]["messages"][:3] == [*bodies[0]["messages"], {"role": "assistant", "content": "Hello"}]
    assert [reply.opening for reply in replies] == [True, False, False]


def test_a_failed_turn_is_reported_and_left_out_of_the_conversation() -> None:
    cut_off = ANSWER[:2]
    bodies, replies = run_load(Conversations(1, Workload(), turns=2, think=NO_PAUSE), cut_off, ANSWER)
    assert [reply.error is None for reply in replies] == [False, True]
    assert [message["role"] for message in bodies[1]["messages"]] == ["system", "user"]


def test_users_share_the_system_prompt_and_nothing_else() -> None:
    load = Conversations(2, Workload(), turns=2, system_tokens=300, think=NO_PAUSE)
    bodies, _ = run_load(load, ANSWER)
    assert len({body["messages"][0]["content"] for body in bodies}) == 1
    assert len({body["messages"][-1]["content"] for body in bodies}) == 4
    assert len(bodies[0]["messages"][0]["content"]) > 300


VALID = json.dumps(
    {
        "region": "us-east",
        "environment": "staging",
        "database_engine": "mysql",
        "storage_class": "general-purpose",
        "apply_immediately": True,
    }
)


@pytest.mark.parametrize(
    ("name", "arguments", "valid"),
    [
        ("resize_database", VALID, True),
        ("resize_database", VALID.replace("mysql", "oracle"), False),
        ("resize_database", VALID[:-1], False),  # cut off
        ("no_such_tool", VALID, False),
    ],
)
def test_only_a_call_that_fits_its_tool_counts(name: str, arguments: str, valid: bool) -> None:
    bodies, [reply] = run_load(ToolCalls(1, 1), tool_call(name, arguments[:9], arguments[9:]))
    assert (bodies[0]["tool_choice"], bodies[0]["tools"]) == ("required", TOOLS)
    assert (reply.error is None) is valid


def test_a_text_instead_of_a_call_is_an_error() -> None:
    _, [reply] = run_load(ToolCalls(1, 1), ANSWER)
    assert reply.error


def test_every_argument_is_bounded() -> None:
    """Or a small model would write one for ever."""
    arguments = [schema for tool in SCHEMAS.values() for schema in tool["properties"].values()]
    assert all("enum" in schema or schema["type"] == "boolean" for schema in arguments)
