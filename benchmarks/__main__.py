"""How fast is the gateway, next to what users would run instead?

Measured over HTTP, as a client sees it, at 1, 16, 32 and 100 clients in a closed loop: output tokens and
requests per second, time to first token (TTFT), the time between pieces of text (ITL), errors, and the
server's peak memory. Every request carries the same system prompt and a different question, streams, and
asks for 64 tokens. Throughput alone would reward a server that starves some clients, latency alone one
that serves few; memory tells what either costs.

The peers run the same model file with the same threads and context for each sequence:
  ours          this project
  stock         `python -m llama_cpp.server` on the same compiled library: what it replaces
  llama-server  llama.cpp's own C++ server from the wheel xllamacpp, at its best slots and KV layout for
                each load. The wheel is built for AVX2; a native build would be some percent faster.

  modal         (on request) app.py in the local Modal control plane of the tests
  bare loop     not a server but the ceiling: llama_decode over the tokens that ours had to compute

Peers take turns at each level, so that drift of the machine hits all of them alike, and figures are
medians over repeats. Stock answers one request at a time, whatever the load: it runs once, at up to 16
clients. Client and server share the cores: what the client and others took is reported, and a disturbed
run is marked. The very last line of stdout is one compact JSON document.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import ceiling, modal_events, report, scenarios
from benchmarks import equality as equality_of
from benchmarks.peers import CACHE, OURS, PEERS, STOCK, Setup, running
from worker.llama.context import MAX_SLOTS

STOCK_LOAD = 16  # clients, above which stock takes many minutes and shows nothing new

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

ModelOption = Annotated[Path | None, typer.Option(help="GGUF file; by default the small model from PyPI")]
PeersOption = Annotated[str, typer.Option(help="comma-separated: ours, stock, llama-server, modal")]
SamplingOption = Annotated[str, typer.Option(help="greedy, openai (temperature 1, top_p 1) or full")]
RequestsOption = Annotated[int, typer.Option(help="requests at a level, at least")]
ContextOption = Annotated[int, typer.Option(help="context in tokens for each sequence")]


@app.command()
def levels(
    peers: PeersOption = "ours,stock,llama-server",
    clients: Annotated[str, typer.Option(help="comma-separated load levels")] = "1,16,32,100",
    repeats: int = 3,
    min_requests: RequestsOption = 50,
    sampling: SamplingOption = "greedy",
    model: ModelOption = None,
    context: ContextOption = 1024,
    threads: int = 2,
) -> None:
    """Throughput, latency and memory of every peer at each load level."""
    setup = Setup(_model(model), threads, context)
    workload = scenarios.Workload(sampling)
    runs: dict[tuple[int, str], list[report.Summary]] = defaultdict(list)
    bare: dict[int, list[float]] = defaultdict(list)
    for repeat in range(repeats):
        for load in map(int, clients.split(",")):
            for peer in (PEERS[name] for name in peers.split(",")):
                if peer is STOCK and (repeat > 0 or load > STOCK_LOAD):
                    continue
                its_setup = scenarios.setup_for(peer, setup, load)
                num_requests = scenarios.num_requests(load, min_requests)
                summary = scenarios.run_level(peer, its_setup, workload, load, num_requests)
                runs[load, peer.name].append(summary)
                print(report.row(load, peer.name, summary), flush=True)
                if peer is OURS:
                    bare[load].append(ceiling.measure(setup.model, _work(summary, load), threads))
                    print(f"{load:>7} {'bare loop':<14} {bare[load][-1]:>7.1f}", flush=True)
        # After every repeat: what an interrupted run has measured is not lost.
        _report_levels(f"levels-{sampling}", f"{setup.model.name}, {sampling}", runs, bare)


@app.command()
def tune(
    clients: Annotated[str, typer.Option(help="comma-separated load levels")] = "1,16,32,100",
    min_requests: RequestsOption = 50,
    sampling: SamplingOption = "greedy",
    model: ModelOption = None,
    context: ContextOption = 1024,
    threads: int = 2,
) -> None:
    """llama-server at all sensible slots and KV layouts, to find its best setting for each load."""
    base = Setup(_model(model), threads, context)
    best: dict[str, Any] = {}
    print(report.HEADER)
    for load in map(int, clients.split(",")):
        tried = []
        num_requests = scenarios.num_requests(load, min_requests)
        for setup, summary in scenarios.tune(base, scenarios.Workload(sampling), load, num_requests):
            tried.append((summary.tokens_per_s, setup.slots, setup.kv_unified))
            print(report.row(load, f"{setup.slots}{' unified' * setup.kv_unified}", summary), flush=True)
        speed, slots, kv_unified = max(tried)
        best[str(load)] = {"slots": slots, "kv_unified": kv_unified, "tokens_per_s": speed}
    _finish("tune", {"best": best})


@app.command()
def long_prompt(
    peers: PeersOption = "ours,llama-server",
    streams: int = 8,
    prompt_tokens: int = 2000,
    sampling: SamplingOption = "greedy",
    model: ModelOption = None,
    threads: int = 2,
) -> None:
    """How much one long prompt disturbs streams that are already running."""
    setup = Setup(_model(model), threads, context=4096)
    outcome = {}
    for name in peers.split(","):
        its_setup = scenarios.setup_for(PEERS[name], setup, 16)
        with running(PEERS[name], its_setup) as server:
            run = scenarios.long_prompt(server, scenarios.Workload(sampling), streams, prompt_tokens)
            outcome[name] = dataclasses.asdict(asyncio.run(run))
        print(name, json.dumps(outcome[name]), flush=True)
    _finish("long-prompt", outcome)


@app.command()
def soak(
    peers: PeersOption = "ours",
    clients: int = 100,
    minutes: float = 10.0,
    sampling: SamplingOption = "openai",
    model: ModelOption = None,
    context: ContextOption = 1024,
    threads: int = 2,
) -> None:
    """Steady load for minutes: errors, and memory over time."""
    setup = Setup(_model(model), threads, context)
    outcome = {}
    print(report.HEADER)
    for name in peers.split(","):
        with running(PEERS[name], scenarios.setup_for(PEERS[name], setup, clients)) as server:
            run = scenarios.soak(server, scenarios.Workload(sampling), clients, minutes * 60)
            outcome[name] = asyncio.run(run)
        print(report.row(clients, name, outcome[name].summary), flush=True)
    curves = {name: tuple(map(list, zip(*run.curve, strict=True))) for name, run in outcome.items()}
    report.plot({"RSS, MiB": curves}, CACHE / "soak.png", f"{clients} clients", "seconds")  # type: ignore[dict-item]
    _finish("soak", {name: dataclasses.asdict(run) for name, run in outcome.items()})


@app.command()
def modal(model: ModelOption = None, clients: int = 100, min_requests: RequestsOption = 200) -> None:
    """Between Modal's containers: cold start, cancellation, a lost worker, and load on two workers."""
    outcome = modal_events.measure(_model(model), clients, min_requests)
    print(f"{report.HEADER}\n{report.row(clients, 'modal', outcome.load)}")
    _finish("modal", dataclasses.asdict(outcome))


@app.command()
def equality(model: ModelOption = None, slots: int = 32) -> None:
    """Whether 50 answers that were batched are the same as one by one, at temperature 0."""
    total, differences = equality_of.compare(_model(model), slots)
    for found in differences:
        print(f"token {found.position}: {found.serial!r} or {found.batched!r}, {found.gap:.4f} apart")
    document = {"answers": total, "differences": [dataclasses.asdict(found) for found in differences]}
    _finish("equality", document)


def _report_levels(
    name: str, title: str, runs: dict[tuple[int, str], list[report.Summary]], bare: dict[int, list[float]]
) -> None:
    """Medians over the repeats so far: a table, a plot, and the JSON line."""
    ceilings = {load: statistics.median(rates) for load, rates in bare.items()}
    results: report.Results = {}
    for (load, peer), summaries in runs.items():
        results.setdefault(load, {})[peer] = report.median(summaries)
    print(f"\nmedians, {title}\n{report.table(results, ceilings)}")
    plot = report.plot_levels(results, CACHE / f"{name}.png", title)
    _finish(name, {"levels": report.as_json(results, ceilings), "plot": plot and str(plot)})


def _work(summary: report.Summary, clients: int) -> ceiling.Work:
    """What the bare loop has to do to match a run of ours."""
    prompt, cached = map(round, summary.prompt)
    return ceiling.Work(min(clients, MAX_SLOTS), cached, prompt - cached, round(summary.tokens_per_request))


def _model(path: Path | None) -> Path:
    if path is None:
        from worker.models.default import default_model

        path = default_model()
    return path.absolute()


def _finish(name: str, document: dict[str, Any]) -> None:
    print(f"written to {scenarios.save(name, document)}")
    print(report.last_line({"benchmark": name, **document}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the running server would stay behind
    app()
