"""The arithmetic: percentiles, summaries, medians, ratios, and how they are printed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ceiling, long_prompt, tables
from benchmarks.loads import Questions
from benchmarks.machine import CpuUse
from benchmarks.replies import Reply
from benchmarks.summary import Summary, median, percentile, ratios, summarize
from benchmarks.workload import Workload
from worker.models.default import default_model

CPU = CpuUse(server=1.5, client=0.1, others=0.0)


def reply(sent: float, times: tuple[float, ...], error: str | None = None) -> Reply:
    return Reply(sent, closed=times[-1], content_times=times, tokens=len(times), error=error)


def some_summary() -> Summary:
    return summarize([reply(0.0, (1.0, 2.0))], peak_rss=100.0, cpu=CPU)


def clients(number: int) -> Questions:
    return Questions(number, 50, Workload())


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentile_interpolates_between_ranks(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 50))


def test_summary_counts_only_whole_answers_over_the_whole_wall_time() -> None:
    replies = [reply(0.0, (1.0, 2.0, 4.0)), reply(0.0, (3.0, 5.0)), reply(5.0, (10.0,), "cut off")]
    summary = summarize(replies, peak_rss=100.0, cpu=CPU)
    assert (summary.tokens, summary.errors, summary.requests) == (5, 1, 3)
    assert (summary.tokens_per_s, summary.requests_per_s) == (0.5, 0.2)
    assert (summary.ttft[0], summary.itl[0], summary.latency[0]) == (2.0, 2.0, 4.5)


def test_first_turns_are_summed_up_apart_and_the_cached_share_is_of_all_tokens() -> None:
    first = replace(reply(0.0, (3.0,)), opening=True, prompt_tokens=100, cached_tokens=0)
    later = replace(reply(5.0, (6.0,)), prompt_tokens=300, cached_tokens=200)
    summary = summarize([first, later], peak_rss=100.0, cpu=CPU)
    assert (summary.opening_ttft[0], summary.ttft[0], summary.cached_share) == (3.0, 1.0, 0.5)


def test_median_over_repeats_is_by_field_and_adds_up_errors() -> None:
    one = some_summary()
    runs = [
        replace(one, tokens_per_s=speed, ttft=(ttft,), errors=1) for speed, ttft in [(3, 9), (1, 7), (2, 8)]
    ]
    middle = median(runs)
    assert (middle.tokens_per_s, middle.ttft, middle.errors, middle.runs) == (2, (8,), 3, 3)


def test_ratios_are_ours_over_theirs_and_missing_where_a_side_is() -> None:
    one = some_summary()
    ratio = ratios(replace(one, tokens_per_s=3.0), replace(one, tokens_per_s=2.0))
    assert (ratio["tokens_per_s"], ratio["ttft_p95"]) == (1.5, 1.0)
    assert math.isnan(ratio["opening_ttft_p95"])


def test_a_run_that_others_disturbed_says_so() -> None:
    quiet = some_summary()
    noisy = summarize([reply(0.0, (1.0, 2.0))], 100.0, replace(CPU, others=0.5))
    assert "disturbed" not in tables.row("1 clients", "ours", quiet)
    assert "disturbed" in tables.row("1 clients", "ours", noisy)


def test_the_table_says_what_share_of_the_ceiling_is_reached_and_has_ratios() -> None:
    one = replace(some_summary(), tokens_per_s=80.0)
    peers = {"ours": one, "other": replace(one, tokens_per_s=40.0)}
    table = tables.table({clients(32): peers}, {clients(32): 100.0})
    assert "100.0 of which ours reaches 0.80" in table
    assert "ours / other: tokens_per_s 2.00" in table


def test_the_last_line_is_json_even_where_nothing_could_be_measured() -> None:
    broken = summarize([reply(0.0, (1.0,), "failed")], 1.0, CPU)
    results: tables.Results = {clients(1): {"ours": broken, "stock": broken}}
    line = tables.last_line({"loads": tables.as_json(results, {clients(1): 2.0})})
    load = json.loads(line)["loads"]["1 clients"]
    assert (load["ours"]["ttft"], load["ours"]["errors"], "\n" in line) == ([None] * 3, 1, False)
    assert load["ratios"]["stock"]["ttft_p95"] is None


def test_plots_are_written(tmp_path: Path) -> None:
    peers = {"ours": some_summary()}
    target = tables.plot_levels({clients(1): peers, clients(16): peers}, tmp_path / "plot.png", "title")
    assert target is not None
    assert target.stat().st_size > 1000


def test_only_gaps_that_overlap_the_long_prompt_count_as_disturbed() -> None:
    stream = reply(0.0, (1.0, 2.0, 3.0, 8.0, 9.0))  # stalls from 3 to 8
    other = reply(0.0, (1.5, 2.5, 7.5, 9.5))
    outcome = long_prompt.split_gaps([stream, other], intruder=reply(4.0, (7.0,)))
    assert outcome.undisturbed[0] == 1.0
    assert (outcome.worst_gap, outcome.disturbed[0], outcome.long_ttft) == (5.0, 5.0, 3.0)


def test_the_bare_loop_has_the_work_of_the_run_in_as_many_sequences_as_could_run() -> None:
    run = replace(some_summary(), prompt=(105.6, 60.2), tokens_per_request=63.7)
    assert ceiling.work_of(run, clients=100) == ceiling.Work(48, 60, 46, 64)
    assert ceiling.work_of(run, clients=100, slots=8).sequences == 8


def test_the_ceiling_is_measured_in_a_process_of_its_own() -> None:
    work = ceiling.Work(sequences=3, cached=8, prompt=5, output=4)
    assert ceiling.measure(default_model(), work, threads=1) > 0
