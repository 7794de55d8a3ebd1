"""From replies to figures: one run's summary, medians over repeats, ratios between peers."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import CpuUse
from benchmarks.replies import Reply

PERCENTILES = (50, 95, 99)
DISTURBED = 0.2  # cores taken by others, above which a figure is not to be trusted


@dataclass(frozen=True, slots=True)
class Summary:
    """One peer at one load. Times in seconds, memory in MiB; tuples of times are p50, p95, p99.

    `ttft` runs from opening the connection to the first text or piece of a call. The first requests of all
    clients come at one moment, which no later ones do, and the first turn of a conversation is all new: their
    times are in `opening_ttft`, the others' in `ttft`. `itl` is the gap between consecutive pieces of text
    within a stream. A peer that sends several tokens in one piece has fewer, longer gaps. `latency` is the
    time to the last byte. `prompt` is prompt tokens per request, all and those that were cached.
    `cpu` is cores in use by the server, by the load generator, and by others: a run that others disturbed
    says nothing about the server. `runs` is the number of repeats that these are the medians of.
    """

    tokens_per_s: float
    requests_per_s: float
    ttft: tuple[float, ...]
    opening_ttft: tuple[float, ...]
    itl: tuple[float, ...]
    latency: tuple[float, ...]
    requests: int
    errors: int
    tokens: int
    tokens_per_request: float
    prompt: tuple[float, float]
    peak_rss: float
    cpu: tuple[float, ...]
    runs: int = 1

    @property
    def cached_share(self) -> float:
        """Of all prompt tokens, as far as the server says so."""
        prompt, cached = self.prompt
        return cached / prompt if prompt else math.nan

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
        latency=percentiles([reply.closed - reply.sent for reply in good]),
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
    """Above 1 is better for throughput, below 1 for times; NaN where one of the two is missing."""
    return {
        "tokens_per_s": _ratio(ours.tokens_per_s, peer.tokens_per_s),
        "requests_per_s": _ratio(ours.requests_per_s, peer.requests_per_s),
        "ttft_p95": _ratio(ours.ttft[1], peer.ttft[1]),
        "opening_ttft_p95": _ratio(ours.opening_ttft[1], peer.opening_ttft[1]),
        "itl_p95": _ratio(ours.itl[1], peer.itl[1]),
    }


def _ratio(ours: float, peer: float) -> float:
    return ours / peer if peer else math.nan
