"""What is printed and kept of summaries: the table with its ratios, plain JSON, and the plots."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.loads import Load
from benchmarks.summary import Summary, ratios

Results = dict[Load, dict[str, Summary]]  # peer -> medians
Ceilings = dict[Load, float]  # tokens per second of a bare loop over what ours computed
LOAD_WIDTH, PEER_WIDTH = 34, 18


class Column(NamedTuple):
    title: str
    width: int
    text: Callable[[Summary], str]


def _times(values: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    return "/".join(f"{value / unit:.{digits}f}" for value in values)


COLUMNS = (
    Column("tok/s", 7, lambda summary: f"{summary.tokens_per_s:.1f}"),
    Column("req/s", 6, lambda summary: f"{summary.requests_per_s:.2f}"),
    Column("TTFT p50/p95/p99 s", 19, lambda summary: _times(summary.ttft)),
    Column("first ones", 17, lambda summary: _times(summary.opening_ttft)),
    Column("ITL ms", 15, lambda summary: _times(summary.itl, 0.001, 0)),
    Column("answer s", 17, lambda summary: _times(summary.latency)),
    Column("prompt/out", 12, lambda summary: f"{summary.prompt[0]:.0f}/{summary.tokens_per_request:.1f}"),
    Column("cached", 6, lambda summary: f"{summary.cached_share:.2f}"),
    Column("errors", 6, lambda summary: str(summary.errors)),
    Column("RSS MiB", 7, lambda summary: f"{summary.peak_rss:.0f}"),
    Column("CPU server/client/others", 24, lambda summary: _times(summary.cpu)),
    Column("runs", 4, lambda summary: str(summary.runs)),
)
HEADER = " ".join(
    [
        f"{'load':<{LOAD_WIDTH}} {'peer':<{PEER_WIDTH}}",
        *(f"{column.title:>{column.width}}" for column in COLUMNS),
    ]
)


def row(load: str, peer: str, summary: Summary) -> str:
    cells = [f"{column.text(summary):>{column.width}}" for column in COLUMNS]
    return f"{_names(load, peer)} {' '.join(cells)}{' disturbed' * summary.disturbed}"


def bare_row(load: str, tokens_per_s: float) -> str:
    return f"{_names(load, 'bare loop')} {tokens_per_s:>7.1f}"


def _names(load: str, peer: str) -> str:
    return f"{load:<{LOAD_WIDTH}} {peer:<{PEER_WIDTH}}"


def table(results: Results, ceilings: Ceilings) -> str:
    """A row for each load and peer; below ours what share of the bare loop it reaches, and its ratios."""
    lines = [HEADER]
    for load, peers in results.items():
        lines += [row(load.name, name, summary) for name, summary in peers.items()]
        if ceiling := ceilings.get(load):
            share = peers["ours"].tokens_per_s / ceiling
            lines.append(f"{bare_row(load.name, ceiling)} of which ours reaches {share:.2f}")
        for name in [name for name in peers if name != "ours"] if "ours" in peers else ():
            ratio = ratios(peers["ours"], peers[name])
            cells = ", ".join(f"{key} {value:.2f}" for key, value in ratio.items())
            lines.append(f"{_names(load.name, 'ratio')} ours / {name}: {cells}")
    return "\n".join(lines)


def as_json(results: Results, ceilings: Ceilings) -> dict[str, Any]:
    """Plain data by the loads' names."""
    document: dict[str, Any] = {}
    for load, peers in results.items():
        level: dict[str, Any] = {name: dataclasses.asdict(summary) for name, summary in peers.items()}
        if "ours" in peers:
            others = [name for name in peers if name != "ours"]
            level["ratios"] = {name: ratios(peers["ours"], peers[name]) for name in others}
        if load in ceilings:
            level["ceiling_tokens_per_s"] = ceilings[load]
        document[load.name] = level
    return document


def last_line(document: dict[str, Any]) -> str:
    """One line of JSON; what could not be measured is null, since JSON has no NaN."""
    return json.dumps(rounded(document), separators=(",", ":"))


def rounded(value: Any) -> Any:
    """Plain data to four digits; NaN becomes None."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def plot_levels(results: Results, target: Path, title: str) -> Path | None:
    """Throughput and times over the number of clients; None without matplotlib."""
    names = list(dict.fromkeys(name for peers in results.values() for name in peers))
    panels: dict[str, Callable[[Summary], float]] = {
        "output tokens/s": lambda summary: summary.tokens_per_s,
        "TTFT p95, s": lambda summary: summary.ttft[1],
        "inter-token p95, ms": lambda summary: summary.itl[1] * 1000,
    }
    series: dict[str, dict[str, Line]] = {}
    for panel, value in panels.items():
        series[panel] = {}
        for name in names:
            points = [(load.clients, value(peers[name])) for load, peers in results.items() if name in peers]
            series[panel][name] = ([clients for clients, _ in points], [height for _, height in points])
    return plot(series, target, title, "clients")


Line = tuple[list[float], list[float]]  # xs and ys


def plot(panels: dict[str, dict[str, Line]], target: Path, title: str, x_label: str) -> Path | None:
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
