"""How fast is the gateway, next to what users would run instead?

Measured over HTTP, as a client sees it: output tokens and requests per second, time to first token (TTFT),
the time between pieces of text (ITL), errors, and the server's peak memory. Throughput alone would reward a
server that starves some clients, latency alone one that serves few; memory tells what either costs.

The peers run the same model file with the same threads and context for each sequence:
  ours          this project
  stock         `python -m llama_cpp.server` on the same compiled library: what it replaces
  llama-server  llama.cpp's own C++ server, compiled from the same sources with the same flags, at its best
                slots and KV layout for each load (--tune finds them), with its cache in memory on
  llama-server-wheel    the same from the wheel xllamacpp, where there is no C++ compiler; built for AVX2
  modal         app.py in the local Modal control plane of the tests
  bare loop     not a server but the ceiling: llama_decode over the tokens that ours had to compute

Peers take turns at each load, so that drift of the machine hits all of them alike, and figures are medians
over repeats. Client and server share the cores: what the client and others took is reported, and a disturbed
run is marked. The machine and each side's instruction sets stand over every table. Single runs are kept in
.cache/bench/runs as they end. The very last line of stdout is one compact JSON document.

Options of all benchmarks stand before the name of one: python -m benchmarks --repeats 1 levels --clients 16
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import CACHE, modal_events, report_page, tables, tuning
from benchmarks import equality as equality_of
from benchmarks import long_prompt as long_prompt_among
from benchmarks import report as report_of
from benchmarks import restart as restart_of
from benchmarks import soak as soak_of
from benchmarks.compare import Comparison, tune
from benchmarks.conversations import Conversations
from benchmarks.loads import Load, Questions, num_requests
from benchmarks.peer import Peer, Setup
from benchmarks.peers import PEERS
from benchmarks.results import finish
from benchmarks.running import running
from benchmarks.tool_calls import TEMPLATE as TOOL_TEMPLATE
from benchmarks.tool_calls import ToolCalls
from benchmarks.workload import SAMPLING, Workload

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the name of a benchmark. None leaves the choice to the benchmark."""

    peers: str | None
    repeats: int
    sampling: str
    model: Path
    context: int | None
    threads: int
    tune: bool

    def setup(self, context: int, slots: int | None = None) -> Setup:
        return Setup(self.model, self.threads, self.context or context, slots)

    def chosen(self, default: str) -> list[Peer]:
        """The peers named, or the benchmark's own choice."""
        names = (self.peers or default).split(",")
        if unknown := set(names) - PEERS.keys():
            there = ", ".join(PEERS)
            raise typer.BadParameter(f"No peer is called {', '.join(unknown)}. There are: {there}.")
        return [PEERS[name] for name in names]


@app.callback()
def common(
    context: typer.Context,
    peers: Annotated[str | None, typer.Option(help=f"comma-separated: {', '.join(PEERS)}")] = None,
    repeats: Annotated[int, typer.Option(help="runs of each peer at each load; figures are medians")] = 3,
    sampling: Annotated[str, typer.Option(help="greedy, openai (temperature 1, top_p 1) or full")] = "greedy",
    model: Annotated[Path | None, typer.Option(help="GGUF file; by default the small one from PyPI")] = None,
    num_ctx: Annotated[int | None, typer.Option("--context", help="tokens for each sequence")] = None,
    threads: int = 2,
    tune: Annotated[bool, typer.Option(help="first find llama-server's best setting for each load")] = False,
) -> None:
    if sampling not in SAMPLING:
        raise typer.BadParameter(f"It is one of: {', '.join(SAMPLING)}.", param_hint="--sampling")
    context.obj = Options(peers, repeats, sampling, _model(model), num_ctx, threads, tune)


Clients = Annotated[str, typer.Option(help="comma-separated loads: how many ask at a time")]
Requests = Annotated[int, typer.Option(help="requests at a load, at least")]


@app.command()
def levels(context: typer.Context, clients: Clients = "1,16,32,100", min_requests: Requests = 50) -> None:
    """Single questions in a closed loop: throughput, times and memory at each number of clients."""
    loads = _questions(context.obj, clients, min_requests)
    setup = context.obj.setup(1024)
    _compare(context.obj, "levels", loads, setup, "ours,stock,llama-server", with_ceiling=True)


@app.command()
def conversations(
    context: typer.Context,
    users: Annotated[str, typer.Option(help="comma-separated")] = "8,24",
    system_tokens: Annotated[str, typer.Option(help="of the system prompt; comma-separated")] = "0,2000",
    turns: int = 4,
    tokens: Annotated[int, typer.Option(help="output tokens of an answer")] = 48,
    slots: Annotated[int, typer.Option(help="of every server: what chats have to share")] = 8,
    think: Annotated[tuple[float, float], typer.Option(help="seconds before each message")] = (1.0, 3.0),
) -> None:
    """Chats whose users think between turns: times of first and later turns, and the share from caches."""
    workload = Workload(context.obj.sampling, tokens)
    loads = [
        Conversations(number, workload, turns, system, think)
        for system in _numbers(system_tokens)
        for number in _numbers(users)
    ]
    _compare(context.obj, "conversations", loads, context.obj.setup(4096, slots), "ours,llama-server")


@app.command()
def tool_calls(context: typer.Context, clients: Clients = "1,8,16", min_requests: Requests = 50) -> None:
    """Forced calls of one of four tools, about 75 tokens each, and as structured output; see `req/s`."""
    sampling = context.obj.sampling
    loads = [
        ToolCalls(number, num_requests(number, min_requests), sampling, by_schema)
        for by_schema in (False, True)
        for number in _numbers(clients)
    ]
    setup = dataclasses.replace(context.obj.setup(2048), chat_template=TOOL_TEMPLATE)
    _compare(context.obj, "tool-calls", loads, setup, "ours,llama-server")


@app.command()
def restart(context: typer.Context, prompt_tokens: int = 2000) -> None:
    """A new process meets a known prompt: its first token beside that of a prompt it has to compute."""
    options: Options = context.obj
    outcome = {}
    for peer in options.chosen("ours,llama-server"):
        run = restart_of.measure(peer, options.setup(4096, slots=4), prompt_tokens, options.repeats)
        outcome[peer.name] = dataclasses.asdict(run) | {"ratio": run.ratio}
        print(f"{peer.name}: known {run.known:.2f} s, computed {run.computed:.2f} s, ratio {run.ratio:.2f}")
    finish("restart", outcome)


@app.command()
def report(
    context: typer.Context,
    only: Annotated[str, typer.Option(help=f"comma-separated parts: {', '.join(report_of.PARTS)}")] = "",
    users: int = 100,
    ramp: Annotated[float, typer.Option(help="more of them each second")] = 2.0,
    seconds: Annotated[float, typer.Option(help="of each of Locust's runs")] = 120.0,
) -> None:
    """Everything for docs/report: load tests, questions, levels, the gateway's own cost, growth."""
    parts = [part for part in only.split(",") if part]
    if unknown := set(parts) - report_of.PARTS.keys():
        raise typer.BadParameter(f"No part is called {', '.join(unknown)}.", param_hint="--only")
    setup = context.obj.setup(report_of.CONTEXT)
    size = report_of.Size(users, ramp, seconds, context.obj.repeats)
    try:
        document = report_of.measure(setup, size, parts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    print(f"written to {report_page.write(document)}")


@app.command("render-report")
def render_report(data: Path = report_page.FOLDER / "data.json") -> None:
    """docs/report again from figures that are there."""
    print(f"written to {report_page.write(json.loads(data.read_text()))}")


@app.command("all")
def everything(context: typer.Context) -> None:
    """Levels, conversations, tool calls and the restart, with their defaults."""
    levels(context)
    conversations(context)
    tool_calls(context)
    restart(context)
    names = ("levels", "conversations", "tool-calls", "restart")
    finish("all", {name: json.loads((CACHE / f"{name}.json").read_text()) for name in names})


@app.command()
def engine(context: typer.Context, clients: Clients = "1,16,32", min_requests: Requests = 50) -> None:
    """The engine without HTTP, in this process, beside the bare loop."""
    from benchmarks.engine import opened  # loads llama.cpp

    setup = context.obj.setup(1024)
    comparison = Comparison("engine", "the engine without HTTP", setup, [PEERS["ours"]])
    with opened(setup) as measure, comparison.reporting():
        for load in _questions(context.obj, clients, min_requests):
            comparison.add(load, "ours", measure(load), setup)
            comparison.add_ceiling(load)


@app.command()
def long_prompt(context: typer.Context, streams: int = 8, prompt_tokens: int = 2000) -> None:
    """How much one long prompt disturbs streams that are already running."""
    [load] = _questions(context.obj, str(2 * streams), 0)
    outcome = {}
    for peer in context.obj.chosen("ours,llama-server"):
        with running(peer, tuning.setup_for(peer, context.obj.setup(4096), load)) as server:
            run = long_prompt_among.measure(server, load.workload, streams, prompt_tokens)
            outcome[peer.name] = dataclasses.asdict(asyncio.run(run))
        print(peer.name, json.dumps(outcome[peer.name]), flush=True)
    finish("long-prompt", outcome)


@app.command()
def soak(context: typer.Context, clients: int = 100, minutes: float = 10.0) -> None:
    """Steady load for minutes: errors, and memory over time."""
    [load] = _questions(context.obj, str(clients), 0)
    outcome = {}
    print(tables.HEADER)
    for peer in context.obj.chosen("ours"):
        with running(peer, tuning.setup_for(peer, context.obj.setup(1024), load)) as server:
            run = asyncio.run(soak_of.measure(server, load.workload, clients, minutes * 60))
        outcome[peer.name] = run
        print(tables.row(load.name, peer.name, run.summary), flush=True)
    curves = {name: ([x for x, _ in run.curve], [y for _, y in run.curve]) for name, run in outcome.items()}
    tables.plot({"RSS, MiB": curves}, CACHE / "soak.png", f"{clients} clients", "seconds")
    finish("soak", {name: dataclasses.asdict(run) for name, run in outcome.items()})


@app.command()
def modal(context: typer.Context, clients: int = 100, min_requests: Requests = 200) -> None:
    """Between Modal's containers: cold start, cancellation, a lost worker, and load on two workers."""
    outcome = modal_events.measure(context.obj.model, clients, min_requests)
    print(f"{tables.HEADER}\n{tables.row(f'{clients} clients', 'modal', outcome.load)}")
    finish("modal", dataclasses.asdict(outcome))


@app.command()
def equality(context: typer.Context, slots: int = 32) -> None:
    """Whether 50 answers that were batched are the same as one by one, at temperature 0."""
    _tell_differences("equality", *equality_of.compare(context.obj.model, slots))


@app.command("equality-of-chats")
def equality_of_chats(context: typer.Context, slots: int = 6) -> None:
    """Whether 50 conversations are the same from slots, memory and files as one by one, at temperature 0."""
    total, differences, reused = equality_of.compare_chats(context.obj.model, slots)
    print(f"tokens reused: {dict(reused)}")
    _tell_differences("equality-of-chats", total, differences)


def _tell_differences(name: str, total: int, differences: Sequence[equality_of.Difference]) -> None:
    for found in differences:
        print(f"token {found.position}: {found.serial!r} or {found.batched!r}, {found.gap:.4f} apart")
    finish(name, {"answers": total, "differences": [dataclasses.asdict(found) for found in differences]})


def _questions(options: Options, clients: str, at_least: int) -> list[Questions]:
    workload = Workload(options.sampling)
    return [Questions(number, num_requests(number, at_least), workload) for number in _numbers(clients)]


def _compare(
    options: Options, name: str, loads: Sequence[Load], setup: Setup, default: str, with_ceiling: bool = False
) -> None:
    peers = options.chosen(default)
    if options.tune:
        tune([peer for peer in peers if tuning.is_llama_server(peer)], loads, setup)
    title = f"{name}, {setup.model.name}, {options.sampling}, {setup.threads} threads, {setup.context} tokens"
    comparison = Comparison(name, title, setup, peers)
    with comparison.reporting():
        comparison.measure(loads, options.repeats, with_ceiling)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _model(path: Path | None) -> Path:
    if path is None:
        from worker.models.default import default_model

        path = default_model()
    return path.absolute()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the running server would stay behind
    app()
