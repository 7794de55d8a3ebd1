"""The report's arithmetic, and that it is written from what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load_test, report
from benchmarks.machine import CpuUse
from benchmarks.peer import Setup
from benchmarks.report_page import knee, plan, write
from benchmarks.summary import Summary

HISTORY = """\
Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,95%,Total Request Count
100,1,POST,chat,0.5,0,1000,2000,1
100,1,TTFT,chat,0.5,0,100,200,1
102,2,POST,chat,1.5,0,3000,N/A,3
"""
STATS = """\
Type,Request Count,Failure Count,Median Response Time,Average Response Time,Max Response Time,\
Requests/s,95%,99%
POST,3,1,2000,2500.5,4000,1.25,3900,4000
TTFT,3,0,100,150,300,1.25,290,300
,6,1,900,1300,4000,2.5,3900,4000
"""


def summary(tokens_per_s: float, requests_per_s: float = 2.0) -> dict[str, Any]:
    times = (0.1, 0.2, 0.3)
    run = Summary(
        tokens_per_s, requests_per_s, times, times, times, times, 10, 0, 640, 64.0, (60.0, 30.0), 1024.0,
        (1.0, 0.1, 0.0),
    )  # fmt: skip
    return dataclasses.asdict(run)


def document() -> dict[str, Any]:
    moment = load_test.Moment(0.0, 1, 0.5, 1.0, 2.0)
    test = load_test.LoadTest(
        4, 20, 1, 2.5, 3.0, 1.0, 1.1, 2.2, 3.3, 4.4, (0.5, 0.75), 99.0, CpuUse(1, 0, 0), [moment]
    )
    answered: dict[str, Any] = {
        "questions": 50,
        "failures": 0,
        "mean": 1.0,
        "min": 0.5,
        "max": 2.0,
        "total": 61.0,
    }
    answered |= {"p50": 1.0, "p95": 1.9, "first_token_p50": 0.25, "first_token_p95": None}
    cost: dict[str, Any] = {
        "requests_per_s": 1000.0,
        "chunks_per_s": 30_000.0,
        "median": 0.001,
        "p95": 0.002,
        "rss": 100.0,
    }
    cost |= {"errors": 0, "added_median": 0.0007}
    curve = {"x": "users", "at": "short prompts", "points": [[1, summary(100)], [2, summary(110)]]}
    parts = {
        "load": {"one message": {"ours": dataclasses.asdict(test)}},
        "questions": {"ours": {"sequential": answered}},
        "levels": {"loads": {"1 clients": {"ours": summary(50), "ceiling_tokens_per_s": 100.0}}},
        "gateway": {"ours": cost, "litellm": {**cost, "requests_per_s": 200.0}},
        "growth": {"users": curve},
    }
    made: dict[str, Any] = {"commit": "abc", "hardware": "a machine"}
    made |= {"builds": {"ours": "AVX2"}}
    made |= {"model": "model.gguf", "threads": 2, "context": 1024, "answer_tokens": 128}
    made |= {"users": 4, "ramp": 2.0, "seconds": 60.0}
    measured = {name: {"at": "now", "results": results} for name, results in parts.items()}
    kept: dict[str, Any] = json.loads(json.dumps({"made": made, **measured}))
    return kept


def test_a_report_has_what_was_measured_in_one_file(tmp_path: Path) -> None:
    measured = document()
    page = write(measured, tmp_path)
    assert json.loads((tmp_path / "data.json").read_text()) == measured
    text = (tmp_path / "report.md").read_text()
    assert "| ours | 20 | 1 | 2.50 | 3.0 | 1.0 | 1.1 | 2.2 | 3.3 | 4.4 | 0.50 / 0.75 | 99 |" in text
    assert "| 1 | ours | 50.0 | 0.50 |" in text  # of the bare loop
    assert "| ours / litellm | 5.00 | 1.00 |" in text
    assert "Knee at 1." in text
    html = page.read_text()
    assert html.count("data:image/png;base64,") == len(list(tmp_path.glob("*.png"))) == 3
    assert "<table>" in html


@pytest.mark.parametrize("part", ["load", "questions", "levels", "gateway", "growth"])
def test_a_part_that_was_not_measured_is_left_out(part: str, tmp_path: Path) -> None:
    measured = document()
    del measured[part]
    write(measured, tmp_path)
    assert "abc" in (tmp_path / "report.md").read_text()


def test_parts_of_different_runs_are_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "report.json"
    made = {"commit": "abc"}
    monkeypatch.setattr(report, "DOCUMENT", kept)
    monkeypatch.setattr(report, "about", lambda setup, size: made)
    monkeypatch.setattr(report, "PARTS", {"load": lambda *_: 1, "levels": lambda *_: 2})
    setup, size = Setup(Path("model.gguf")), report.Size()
    report.measure(setup, size, ["load"])
    document = report.measure(setup, size, ["levels"])
    assert (document["load"]["results"], document["levels"]["results"]) == (1, 2)
    made = {"commit": "def"}
    with pytest.raises(ValueError, match="another commit"):
        report.measure(setup, size, ["levels"])
    assert json.loads(kept.read_text()) == document


def test_locusts_files_become_seconds_without_what_is_counted_twice(tmp_path: Path) -> None:
    """A first text is a request of its own to Locust, and in its total."""
    (tmp_path / "load_stats.csv").write_text(STATS)
    (tmp_path / "load_stats_history.csv").write_text(HISTORY)
    test = load_test.read(tmp_path, 2, 10.0, CpuUse(1, 0, 0))
    assert (test.requests, test.failures, test.requests_per_s, test.most_per_s) == (3, 1, 1.25, 1.5)
    assert (test.mean, test.p50, test.p95, test.longest) == (2.5005, 2.0, 3.9, 4.0)
    assert test.first_text == (0.1, 0.29)
    assert [(moment.at, moment.users, moment.p50) for moment in test.moments] == [(0, 1, 1.0), (2, 2, 3.0)]


def test_a_knee_is_where_twice_as_much_is_not_worth_it() -> None:
    assert knee([(1, summary(100)), (4, summary(190)), (8, summary(230))]) == 4
    assert knee([(1, summary(100)), (2, summary(200))]) is None


def test_users_who_pause_are_more_than_those_who_are_answered() -> None:
    """20 clients at 2 answers/s wait 10 s each; with 2 s between, 24 users make the same load."""
    planned = plan([(1, summary(50)), (20, summary(128))], threads=2, users=240)
    assert (planned.answer_seconds, planned.users_a_worker, planned.workers) == (10.0, 24, 10)
    assert planned.answers_per_s == 20.0
    assert planned.gateways == 4  # 200 streams at a time
