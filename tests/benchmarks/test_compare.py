"""Peers, their settings and comparisons, with a fake server that is a real process."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import ENVIRONMENT, compare, llama_server, restart, results, soak, tuning
from benchmarks.__main__ import app
from benchmarks.compare import Comparison
from benchmarks.conversations import Conversations
from benchmarks.engine import opened
from benchmarks.loads import Questions
from benchmarks.machine import cpu_model
from benchmarks.peer import Peer, Setup, instruction_sets
from benchmarks.peers import OURS
from benchmarks.running import running
from benchmarks.workload import Workload
from worker.models.default import default_model

PROGRAM = Path(__file__).with_name("fake_peer.py")
LOAD = Questions(2, 4, Workload())


def fake(name: str, **fields: Any) -> Peer:
    return Peer(
        name,
        install=lambda: PROGRAM,
        command=lambda program, setup, port: [sys.executable, str(program), str(port)],
        system_info=lambda program: ["echo", "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | OPENMP = 1 |"],
        origin="nowhere",
        **fields,
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "CACHE", tmp_path)
    monkeypatch.setattr(compare, "CACHE", tmp_path)
    monkeypatch.setattr(tuning, "TUNED", tmp_path / "tuned.json")
    return tmp_path


def test_servers_under_test_do_not_inherit_how_the_worker_tunes_openmp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer on the same libgomp would run with this project's choice instead of its own."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # by whatever has been imported since
    with running(fake("test"), Setup(Path("none"))) as server:
        assert server.model_id == ENVIRONMENT.get("GOMP_SPINCOUNT", "as it likes")


def test_a_comparison_reports_medians_ratios_and_instruction_sets(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = Comparison("test", "a test", Setup(Path("none")), [fake("ours"), fake("other")])
    with comparison.reporting():
        comparison.measure([LOAD], repeats=2)
    *_, last = capsys.readouterr().out.splitlines()
    document = json.loads(last)
    load = document["loads"]["2 clients"]
    assert (load["ours"]["runs"], load["ours"]["requests"], load["ours"]["errors"]) == (2, 4, 0)
    assert load["ratios"]["other"]["tokens_per_s"] > 0
    assert document["instruction_sets"] == {"ours": "SSE3 AVX2", "other": "SSE3 AVX2"}
    assert document["settings"] == {"2 clients: ours": "its own slots", "2 clients: other": "its own slots"}
    assert json.loads((cache / "test.json").read_text()) == document


def test_an_interrupted_comparison_keeps_and_reports_the_runs_that_it_has(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    peers = [fake("ours"), Peer("late", lambda: PROGRAM, interrupted, fake("late").system_info, "nowhere")]
    comparison = Comparison("test", "a test", Setup(Path("none")), peers)
    with pytest.raises(KeyboardInterrupt), comparison.reporting():
        comparison.measure([LOAD], repeats=1)
    assert "ours" in json.loads(capsys.readouterr().out.splitlines()[-1])["loads"]["2 clients"]
    [runs] = (cache / "runs").glob("test-*.jsonl")
    assert [json.loads(line)["peer"] for line in runs.read_text().splitlines()] == ["ours"]


def test_a_restarted_server_finds_the_folder_of_the_one_before() -> None:
    folders: list[Path | None] = []

    def env(setup: Setup, port: int) -> dict[str, str]:
        folders.append(setup.cache_dir)
        return {}

    outcome = restart.measure(fake("ours", env=env), Setup(Path("none")), prompt_tokens=20, repeats=2)
    assert outcome.ratio > 0
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert OURS.env(Setup(Path("none"), cache_dir=Path("folder")), 1)["LLM_CACHE_DIR"] == "folder"


def test_a_soak_watches_memory_until_the_time_is_up() -> None:
    with running(fake("ours"), Setup(Path("none"))) as server:
        outcome = asyncio.run(soak.measure(server, Workload(), clients=2, seconds=0.05))
    assert outcome.summary.requests >= 2
    assert outcome.summary.errors == 0
    assert all(mib > 0 for _, mib in outcome.curve)


def test_the_engine_is_measured_without_http() -> None:
    with opened(Setup(default_model(), context=256, slots=2)) as measure:
        summary = measure(Questions(2, 3, Workload(max_tokens=4)))
    assert (summary.requests, summary.errors, summary.tokens) == (3, 0, 12)
    assert summary.prompt[0] > summary.prompt[1] > 0


@pytest.mark.parametrize("options", [["--peers", "vllm", "levels"], ["--sampling", "wild", "levels"]])
def test_an_unknown_name_is_answered_with_those_that_there_are(options: list[str]) -> None:
    outcome = CliRunner().invoke(app, options)
    assert outcome.exit_code == 2
    assert "llama-server" in outcome.output or "greedy" in outcome.output


def test_instruction_sets_are_those_in_use() -> None:
    info = "CPU : SSE3 = 1 | AVX512 = 0 | AVX512_VNNI = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "
    assert instruction_sets(info) == "SSE3 AVX512_VNNI"


def test_our_own_build_tells_its_instruction_sets() -> None:
    assert OURS.instruction_sets()


def test_the_processor_is_told_with_its_numbers(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("cpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Some CPU\nbugs\t\t: a: b\n")
    assert cpu_model(cpuinfo) == "Some CPU (6/106)"


LLAMA_SERVER = fake("llama-server")


@pytest.mark.parametrize(("clients", "slots"), [(1, 1), (8, 8), (100, 48)])
def test_untuned_llama_server_gets_a_slot_for_each_client_up_to_48(clients: int, slots: int) -> None:
    load = Questions(clients, 50, Workload())
    assert tuning.setup_for(LLAMA_SERVER, Setup(Path("model")), load).slots == slots


def test_llama_server_gets_the_fastest_of_the_settings_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Setup(Path("model"))
    fast = Setup(Path("model"), slots=1)
    summary = compare.run_once(fake("any"), base, LOAD)

    def run(peer: Peer, setup: Setup, load: object) -> object:
        return replace(summary, tokens_per_s=2.0 if setup == fast else 1.0)

    monkeypatch.setattr(compare, "run_once", run)
    compare.tune([LLAMA_SERVER], [LOAD], base)
    assert tuning.setup_for(LLAMA_SERVER, base, LOAD) == fast
    assert tuning.setup_for(OURS, base, LOAD) == base  # its slots are its own choice
    assert tuning.setup_for(LLAMA_SERVER, Setup(Path("other")), LOAD).slots == 2


def test_chats_may_spread_the_kv_of_the_given_slots_over_a_slot_for_each_user() -> None:
    base = Setup(Path("model"), context=4096, slots=8)
    tried = list(tuning.candidates(base, Conversations(24, Workload())))
    assert [(setup.slots, setup.kv_unified, setup.kv_tokens) for setup in tried] == [
        (8, False, None),
        (8, True, None),
        (24, True, 8 * 4096),
    ]


def test_both_builds_of_llama_server_get_the_same_memory_and_keep_their_cache() -> None:
    setup = Setup(Path("model.gguf"), threads=2, context=4096, slots=8)
    native = llama_server.NATIVE.command(Path("program"), setup, 1234)
    wheel = llama_server.WHEEL.command(Path("python"), setup, 1234)
    for command in (native, wheel):
        assert command[command.index("--ctx-size") + 1] == "32768"
        assert command[command.index("--parallel") + 1] == "8"
        assert "--cache-ram" not in command
