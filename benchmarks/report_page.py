"""docs/report, from what benchmarks/report.py measured: Markdown with plots, and one HTML file."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt

from benchmarks import ROOT
from benchmarks.tables import Line, plot
from worker.smoke import CORE_SECOND, GIB_SECOND

FOLDER = ROOT / "docs" / "report"
TEMPLATES = Path(__file__).parent
KNEE = 1.25  # twice as much of what varies gives less than that of tokens/s: more is not worth it
GATEWAY_STREAMS, GATEWAY_CORES, GATEWAY_GIB = 64, 0.25, 0.5  # of one container, as app.py has them
SECONDS_BETWEEN_QUESTIONS = 2.0  # of one user, after an answer: the middle of one to three

Point = dict[str, Any]


def write(document: dict[str, Any], folder: Path = FOLDER) -> Path:
    """report.md, report.html, data.json and the plots; returns the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    images = {name: path.name for name, path in plots(document, folder)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": number}
    environment.globals["ratio"] = ratio
    parts = {name: part["results"] for name, part in document.items() if name != "made"}
    text = environment.get_template("report.md.jinja").render(
        made=document["made"],
        ended=max((part["at"] for name, part in document.items() if name != "made"), default="never"),
        images=images,
        plan=plan(parts["growth"]["users"]["points"], document["made"]["threads"])
        if "growth" in parts
        else None,
        knees={name: knee(curve["points"]) for name, curve in parts.get("growth", {}).items()},
        **{name: parts.get(name) for name in ("load", "questions", "levels", "gateway", "growth")},
    )
    (folder / "report.md").write_text(text)
    page = folder / "report.html"
    page.write_text(environment.get_template("report.html.jinja").render(body=_html(text, folder)))
    return page


def _html(text: str, folder: Path) -> str:
    """The Markdown's HTML, with each image inside of it."""
    html = MarkdownIt("commonmark").enable("table").render(text)

    def inlined(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return re.sub(r'src="([\w-]+\.png)"', inlined, html)


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def ratio(ours: float | None, other: float | None) -> str:
    """How many times the other's ours is."""
    return "-" if not ours or not other else f"{ours / other:.2f}"


def plots(document: dict[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """What there are figures for, by name."""
    for kind, servers in _results(document, "load").items():
        name = f"load-{kind.replace(' ', '-')}"
        yield from _plotted(
            name, folder, load_panels(servers), f"{kind}: users ramp up, then stay", "seconds"
        )
    if loads := _results(document, "levels").get("loads"):
        yield from _plotted("levels", folder, level_panels(loads), "single questions", "clients")
    for name, curve in _results(document, "growth").items():
        yield from _plotted(f"growth-{name}", folder, growth_panels(curve["points"]), curve["at"], curve["x"])


def _results(document: dict[str, Any], part: str) -> dict[str, Any]:
    results: dict[str, Any] = document.get(part, {}).get("results", {})
    return results


def _plotted(
    name: str, folder: Path, panels: dict[str, dict[str, Line]], title: str, x_label: str
) -> Iterator[tuple[str, Path]]:
    if path := plot(panels, folder / f"{name}.png", title, x_label):
        yield name, path


def load_panels(servers: dict[str, Any]) -> dict[str, dict[str, Line]]:
    def lines(value: str) -> dict[str, Line]:
        return {
            server: line([(moment["at"], moment[value]) for moment in test["moments"]])
            for server, test in servers.items()
        }

    return {
        "requests/s": lines("requests_per_s"),
        "answer p50, s": lines("p50"),
        "answer p95, s": lines("p95"),
    }


def level_panels(loads: dict[str, Any]) -> dict[str, dict[str, Line]]:
    servers = [
        server for server in ("ours", "llama-server", "stock") if any(server in at for at in loads.values())
    ]

    def lines(value: Callable[[Point], float]) -> dict[str, Line]:
        return {
            server: line(
                [(int(name.split()[0]), value(at[server])) for name, at in loads.items() if server in at]
            )
            for server in servers
        }

    bare = line([(int(name.split()[0]), at.get("ceiling_tokens_per_s")) for name, at in loads.items()])
    return {
        "output tokens/s": lines(lambda one: one["tokens_per_s"]) | {"bare loop": bare},
        "first token p95, s": lines(lambda one: one["ttft"][1]),
        "between tokens p95, s": lines(lambda one: one["itl"][1]),
    }


def growth_panels(points: Sequence[tuple[float, Point]]) -> dict[str, dict[str, Line]]:
    def lines(value: Callable[[Point], float]) -> dict[str, Line]:
        return {"ours": line([(x, value(point)) for x, point in points])}

    return {
        "output tokens/s": lines(lambda point: point["tokens_per_s"]),
        "first token p95, s": lines(lambda point: point["ttft"][1]),
        "memory, MiB": lines(lambda point: point["peak_rss"]),
    }


def line(points: Sequence[tuple[float, float | None]]) -> Line:
    """Without what could not be measured."""
    known = [(x, y) for x, y in points if y is not None]
    return [x for x, _ in known], [y for _, y in known]


def knee(points: Sequence[tuple[float, Point]]) -> float | None:
    """Where a curve of throughput bends: from there twice as much gives less than KNEE times the tokens/s."""
    for (x, point), (further, next_point) in pairwise(points):
        doublings = math.log2(further / x)
        if next_point["tokens_per_s"] < point["tokens_per_s"] * KNEE**doublings:
            return x
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """Users who chat, on workers like the measured machine; dollars by Modal's published rates."""

    users: int
    answers_per_s: float
    answer_seconds: float
    users_a_worker: int
    workers: int
    cores: float  # of a worker; physical ones, as Modal counts
    gib: float
    gateways: int
    dollars_per_hour: float


def plan(points: Sequence[tuple[float, Point]], threads: int, users: int = 10_000) -> Plan:
    """By Little's law: whoever is not answered reads, so answers/s = users / (answer + pause).

    At the load that gave the most tokens/s.
    """
    clients, best = max(points, key=lambda point: point[1]["tokens_per_s"])
    seconds = clients / best["requests_per_s"]
    turn = seconds + SECONDS_BETWEEN_QUESTIONS
    users_a_worker = int(best["requests_per_s"] * turn)
    workers = math.ceil(users / users_a_worker)
    gateways = math.ceil(users / turn * seconds / GATEWAY_STREAMS)
    cores, gib = threads / 2, best["peak_rss"] / 1024
    second = workers * _price(cores, gib) + gateways * _price(GATEWAY_CORES, GATEWAY_GIB)
    return Plan(users, users / turn, seconds, users_a_worker, workers, cores, gib, gateways, 3600 * second)


def _price(cores: float, gib: float) -> float:
    """Dollars a second of one container."""
    return cores * CORE_SECOND + gib * GIB_SECOND
