"""The benchmark's own arithmetic: a wrong percentile or a lost event would make every figure a lie."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ENVIRONMENT, ceiling, report, scenarios
from benchmarks.load import Recording, Reply, Stamped, chat_request, closed_loop, dechunk, decode, events
from benchmarks.machine import CpuUse
from benchmarks.peers import LLAMA_SERVER, Peer, Setup, running
from worker.models.default import default_model


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\r\n\r\n"


def delta(content: str | None, finish_reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}])


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CACHED = {"cached_tokens": 60}
USAGE = event(
    choices=[], usage={"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": CACHED}
)
ANSWER = (delta(""), delta("Hel"), delta("lo"), delta(None, "length"), USAGE, b"data: [DONE]\n\n")


def stamped(data: bytes, size: int) -> list[Stamped]:
    """`data` as it would arrive in pieces of `size` bytes, one second apart."""
    return [(float(i), data[start : start + size]) for i, start in enumerate(range(0, len(data), size))]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_an_answer_decodes_the_same_however_the_network_cuts_it(size: int) -> None:
    reply = decode(Recording(sent=0.0, pieces=stamped(HEAD + chunked(*ANSWER), size), closed=9.0))
    assert (len(reply.content_times), reply.tokens, reply.error) == (2, 7, None)
    assert (reply.prompt_tokens, reply.cached_tokens) == (100, 60)


def test_an_event_is_stamped_with_the_arrival_of_its_last_byte() -> None:
    pieces = [(1.0, b"data: fir"), (2.0, b"st\n\ndata: second\n"), (3.0, b"\ndata: third\n\n")]
    assert list(events(pieces)) == [(2.0, b"first"), (2.0, b"second"), (3.0, b"third")]


def test_comments_between_events_are_not_events() -> None:
    assert list(events([(1.0, b": keep-alive\n\ndata: x\n\n")])) == [(1.0, b"x")]


def test_a_chunk_with_an_extension_and_a_line_end_in_its_data_survives() -> None:
    assert b"".join(data for _, data in dechunk([(0.0, b"4;name=1\r\na\r\nb\r\n0\r\n\r\n")])) == b"a\r\nb"


def test_without_usage_every_delta_with_text_counts_as_a_token() -> None:
    without_usage = [part for part in ANSWER if part != USAGE]
    assert decode(Recording(0.0, [(0.0, HEAD + chunked(*without_usage))])).tokens == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
        HEAD + chunked(*ANSWER[:3]),  # cut off before its finish_reason
        HEAD + chunked(delta("Hel"), event(error={"message": "out of memory"})),
    ],
)
def test_a_broken_answer_is_an_error(answer: bytes) -> None:
    assert decode(Recording(0.0, [(1.0, answer)], closed=1.0)).error


def test_an_answer_may_be_empty_and_is_still_whole() -> None:
    reply = decode(Recording(0.0, [(1.0, HEAD + chunked(delta(None, "stop")))], closed=1.0))
    assert (reply.error, reply.content_times) == (None, ())


def test_closed_loop_sends_every_request_once_and_keeps_all_clients_busy() -> None:
    async def run() -> tuple[list[Recording], int, set[bytes]]:
        running, most, bodies = 0, 0, set()
        all_here = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            bodies.add(await reader.readexactly(length))
            running += 1
            most = max(most, running)
            if running == 3:
                all_here.set()
            await all_here.wait()  # nobody is answered until three are here at once
            writer.write(HEAD + chunked(*ANSWER))
            await writer.drain()
            running -= 1
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            requests = [chat_request({"number": number}) for number in range(9)]
            recordings = await closed_loop(port, requests, clients=3)
        return recordings, most, bodies

    recordings, most, bodies = asyncio.run(run())
    assert [decode(recording).error for recording in recordings] == [None] * 9
    assert (most, len(bodies)) == (3, 9)


def test_a_refused_connection_is_an_error_and_not_a_crash() -> None:
    [recording] = asyncio.run(closed_loop(1, [chat_request({})], clients=1))
    assert decode(recording).error


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentile_interpolates_between_ranks(percent: float, expected: float) -> None:
    assert report.percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(report.percentile([], 50))


def reply(sent: float, times: tuple[float, ...], error: str | None = None) -> Reply:
    return Reply(sent, closed=times[-1], content_times=times, tokens=len(times), error=error)


CPU = CpuUse(server=1.5, client=0.1, others=0.0)


def test_summary_counts_only_whole_answers_over_the_whole_wall_time() -> None:
    replies = [reply(0.0, (1.0, 2.0, 4.0)), reply(0.0, (3.0, 5.0)), reply(5.0, (10.0,), "cut off")]
    summary = report.summarize(replies, peak_rss=100.0, cpu=CPU)
    assert (summary.tokens, summary.errors, summary.requests) == (5, 1, 3)
    assert (summary.tokens_per_s, summary.requests_per_s) == (0.5, 0.2)
    assert (summary.ttft[0], summary.itl[0]) == (2.0, 2.0)


def test_the_ceiling_is_measured_in_a_process_of_its_own() -> None:
    work = ceiling.Work(sequences=3, cached=8, prompt=5, output=4)
    assert ceiling.measure(default_model(), work, threads=1) > 0


def test_the_table_says_what_share_of_the_ceiling_is_reached() -> None:
    one = replace(report.summarize([reply(0.0, (1.0, 2.0))], 100.0, CPU), tokens_per_s=80.0)
    assert "100.0 of which ours reaches 0.80" in report.table({32: {"ours": one}}, {32: 100.0})


def test_median_over_repeats_is_by_field_and_adds_up_errors() -> None:
    one = report.summarize([reply(0.0, (1.0, 2.0))], 100.0, CPU)
    runs = [
        replace(one, tokens_per_s=speed, ttft=(ttft,), errors=1) for speed, ttft in [(3, 9), (1, 7), (2, 8)]
    ]
    middle = report.median(runs)
    assert (middle.tokens_per_s, middle.ttft, middle.errors, middle.runs) == (2, (8,), 3, 3)


def test_a_run_that_others_disturbed_says_so() -> None:
    replies = [reply(0.0, (1.0, 2.0))]
    quiet = report.summarize(replies, 100.0, CPU)
    noisy = report.summarize(replies, 100.0, replace(CPU, others=0.5))
    assert "disturbed" not in report.row(1, "ours", quiet)
    assert "disturbed" in report.row(1, "ours", noisy)


@pytest.mark.parametrize(("clients", "slots"), [(1, 1), (8, 8), (100, 48)])
def test_untuned_llama_server_gets_a_slot_for_each_client_up_to_48(
    clients: int, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "CACHE", tmp_path)
    assert scenarios.setup_for(LLAMA_SERVER, Setup(tmp_path), clients).slots == slots


def test_llama_server_gets_the_setting_that_tuning_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "CACHE", tmp_path)
    scenarios.save("tune", {"best": {"32": {"slots": 16, "kv_unified": True}}})
    setup = scenarios.setup_for(LLAMA_SERVER, Setup(tmp_path), 32)
    assert (setup.slots, setup.kv_unified) == (16, True)


def test_the_last_line_is_json_even_where_nothing_could_be_measured() -> None:
    broken = report.summarize([reply(0.0, (1.0,), "failed")], 1.0, CPU)
    line = report.last_line({"levels": report.as_json({1: {"ours": broken, "stock": broken}}, {1: 2.0})})
    level = json.loads(line)["levels"]["1"]
    assert (level["ours"]["ttft"], level["ours"]["errors"], "\n" in line) == ([None] * 3, 1, False)
    assert level["ratios"]["stock"]["ttft_p95"] is None


def test_there_are_fifty_different_questions_half_of_them_turkish() -> None:
    rows = [json.loads(line) for line in scenarios.QUESTIONS.read_text().splitlines()]
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == 50
    assert sum(row["lang"] == "tr" for row in rows) == sum(row["lang"] == "en" for row in rows) == 25
    assert all(8 <= len(row["question"].split()) <= 40 for row in rows)


def test_no_two_requests_of_a_run_are_equal() -> None:
    requests = scenarios.Workload().requests("model")
    assert len({next(requests) for _ in range(200)}) == 200


def test_only_gaps_that_overlap_the_long_prompt_count_as_disturbed() -> None:
    stream = reply(0.0, (1.0, 2.0, 3.0, 8.0, 9.0))  # stalls from 3 to 8
    other = reply(0.0, (1.5, 2.5, 7.5, 9.5))
    outcome = scenarios.split_gaps([stream, other], intruder=reply(4.0, (7.0,)))
    assert outcome.undisturbed[0] == 1.0
    assert (outcome.worst_gap, outcome.disturbed[0], outcome.long_ttft) == (5.0, 5.0, 3.0)


def test_plots_are_written(tmp_path: Path) -> None:
    one = report.summarize([reply(0.0, (1.0, 2.0))], 100.0, CPU)
    target = report.plot_levels({1: {"ours": one}, 16: {"ours": one}}, tmp_path / "plot.png", "title")
    assert target is not None
    assert target.stat().st_size > 1000


# A server whose only model is called as it was told to spin.
TELLS_ITS_SPINS = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        model = {"id": os.environ.get("GOMP_SPINCOUNT", "as it likes")}
        self.wfile.write(json.dumps({"data": [model]}).encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_servers_under_test_do_not_inherit_how_the_worker_tunes_openmp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer on the same libgomp would run with this project's choice instead of its own."""
    peer = Peer("test", (), lambda python, setup, port: [str(python), "-c", TELLS_ITS_SPINS, str(port)])
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # by whatever has been imported since
    with running(peer, Setup(Path("none"))) as server:
        assert server.model_id == ENVIRONMENT.get("GOMP_SPINCOUNT", "as it likes")
