"""From replies to figures: summaries, medians over repeats, ratios, the printed table and the plots."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Reply
from benchmarks.machine import CpuUse

PERCENTILES = (50, 95, 99)
DISTURBED = 0.2  # cores taken by others, above which a figure is not to be trusted


@dataclass(frozen=True, slots=True)
class Summary:
    """One peer at one load. Times in seconds, memory in MiB; `ttft` and `itl` are p50, p95, p99.

    `ttft` runs from opening the connection to the first text. The first requests of all clients come at one
    moment, which no later ones do: their times are in `opening_ttft`, the others' in `ttft`. `itl` is the gap
    between consecutive pieces of text within a stream. A peer that sends several tokens in one piece has
    fewer, longer gaps.
    `prompt` is prompt tokens per request, all and those that were cached.
    `cpu` is cores in use by the server, by the load generator, and by others: a run that others disturbed
    says nothing about the server. `runs` is the number of repeats that these are the medians of.
    """

    tokens_per_s: float
    requests_per_s: float
    ttft: tuple[float, ...]
    opening_ttft: tuple[float, ...]
    itl: tuple[float, ...]
    requests: int
    errors: int
    tokens: int
    tokens_per_request: float
    prompt: tuple[float, float]
    peak_rss: float
    cpu: tuple[float, ...]
    runs: int = 1

    @property
    def disturbed(self) -> bool:
        return self.cpu[2] > DISTURBED


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def percentiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(percentile(values, percent) for percent in PERCENTILES)


def summarize(replies: Sequence[Reply], peak_rss: float, cpu: CpuUse) -> Summary:
    """Rates are over the wall time from the first request to the last byte; only whole answers count."""
    good = [reply for reply in replies if reply.error is None]
    seconds = max(reply.closed for reply in replies) - min(reply.sent for reply in replies)
    tokens = sum(reply.tokens for reply in good)
    return Summary(
        tokens_per_s=tokens / seconds,
        requests_per_s=len(good) / seconds,
        ttft=_ttft([reply for reply in good if not reply.opening]),
        opening_ttft=_ttft([reply for reply in good if reply.opening]),
        itl=percentiles([gap for reply in good for gap in reply.gaps]),
        requests=len(replies),
        errors=len(replies) - len(good),
        tokens=tokens,
        tokens_per_request=_mean([reply.tokens for reply in good]),
        prompt=(
            _mean([reply.prompt_tokens for reply in good]),
            _mean([reply.cached_tokens for reply in good]),
        ),
        peak_rss=peak_rss,
        cpu=(cpu.server, cpu.client, cpu.others),
    )


def _ttft(replies: Sequence[Reply]) -> tuple[float, ...]:
    return percentiles([reply.time_to_first_token for reply in replies if reply.content_times])


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def median(summaries: Sequence[Summary]) -> Summary:
    """Field by field over repeats, except errors, which add up."""
    rows = [dataclasses.asdict(summary) for summary in summaries]
    middle: dict[str, Any] = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        if isinstance(column[0], tuple):
            middle[name] = tuple(statistics.median(values) for values in zip(*column, strict=True))
        else:
            middle[name] = statistics.median(column)
    return Summary(**{**middle, "errors": sum(row["errors"] for row in rows), "runs": len(rows)})


def ratios(ours: Summary, peer: Summary) -> dict[str, float]:
    """Above 1 is better for throughput, below 1 for latency."""
    return {
        "tokens_per_s": ours.tokens_per_s / peer.tokens_per_s if peer.tokens_per_s else math.nan,
        "ttft_p95": ours.ttft[1] / peer.ttft[1],
        "opening_ttft_p95": ours.opening_ttft[1] / peer.opening_ttft[1],
        "itl_p95": ours.itl[1] / peer.itl[1],
    }


Results = dict[int, dict[str, Summary]]  # clients -> peer -> median summary
Ceilings = dict[int, float]  # clients -> tokens per second of a bare loop over what ours computed

HEADER = (
    f"{'clients':>7} {'peer':<14} {'tok/s':>7} {'req/s':>6} {'TTFT p50/p95/p99 s':>20} {'opening':>15} "
    f"{'ITL p50/p95/p99 ms':>20} {'prompt/cached/out':>17} {'errors':>6} {'RSS MiB':>8} "
    f"{'CPU server/client/others':>25} {'runs':>4}"
)


def row(clients: int, name: str, summary: Summary) -> str:
    ttft = "/".join(f"{value:.2f}" for value in summary.ttft)
    opening = "/".join(f"{value:.2f}" for value in summary.opening_ttft)
    itl = "/".join(f"{value * 1000:.0f}" for value in summary.itl)
    cpu = "/".join(f"{value:.2f}" for value in summary.cpu)
    tokens = "/".join(f"{value:.1f}" for value in (*summary.prompt, summary.tokens_per_request))
    return (
        f"{clients:>7} {name:<14} {summary.tokens_per_s:>7.1f} {summary.requests_per_s:>6.2f} {ttft:>20} "
        f"{opening:>15} {itl:>20} {tokens:>17} {summary.errors:>6} {summary.peak_rss:>8.0f} "
        f"{cpu:>25} {summary.runs:>4}{' disturbed' * summary.disturbed}"
    )


def table(results: Results, ceilings: Ceilings) -> str:
    lines = [HEADER]
    for clients, peers in results.items():
        lines += [row(clients, name, summary) for name, summary in peers.items()]
        if ceiling := ceilings.get(clients):
            share = peers["ours"].tokens_per_s / ceiling
            lines.append(f"{clients:>7} {'bare loop':<14} {ceiling:>7.1f} of which ours reaches {share:.2f}")
        for name in peers.keys() - {"ours"} if "ours" in peers else ():
            ratio = ratios(peers["ours"], peers[name])
            lines.append(" " * 8 + f"ours / {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in ratio.items()))
    return "\n".join(lines)


def as_json(results: Results, ceilings: Ceilings) -> dict[str, Any]:
    """Plain data; what could not be measured is null, since JSON has no NaN."""
    document: dict[str, Any] = {}
    for clients, peers in results.items():
        level: dict[str, Any] = {name: dataclasses.asdict(summary) for name, summary in peers.items()}
        if "ours" in peers:
            others = [name for name in peers if name != "ours"]
            level["ratios"] = {name: ratios(peers["ours"], peers[name]) for name in others}
        if clients in ceilings:
            level["ceiling_tokens_per_s"] = ceilings[clients]
        document[str(clients)] = level
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def last_line(document: dict[str, Any]) -> str:
    return json.dumps(_rounded(document), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def plot_levels(results: Results, target: Path, title: str) -> Path | None:
    """Throughput and latency over the number of clients; None without matplotlib (the `bench` extra)."""
    names = list(dict.fromkeys(name for peers in results.values() for name in peers))
    panels: dict[str, Callable[[Summary], float]] = {
        "output tokens/s": lambda summary: summary.tokens_per_s,
        "TTFT p95, s": lambda summary: summary.ttft[1],
        "inter-token p95, ms": lambda summary: summary.itl[1] * 1000,
    }
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for panel, value in panels.items():
        series[panel] = {}
        for name in names:
            points = [(clients, value(peers[name])) for clients, peers in results.items() if name in peers]
            series[panel][name] = ([clients for clients, _ in points], [height for _, height in points])
    return plot(series, target, title, "clients")


def plot(
    panels: dict[str, dict[str, tuple[list[float], list[float]]]], target: Path, title: str, x_label: str
) -> Path | None:
    """One panel for each entry, one line for each series in it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure: Any = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    axes: Iterable[Any] = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (label, lines) in zip(axes, panels.items(), strict=True):
        for name, (xs, ys) in lines.items():
            axis.plot(xs, ys, marker=".", label=name)
        axis.set(xlabel=x_label, ylabel=label, ylim=(0, None))
        axis.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    return target
