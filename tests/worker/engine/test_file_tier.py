"""What goes to files, and that it comes back in another process."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine.fake_runner import (
    FakeModelRunner,
    continuation,
    fetched,
    make_engine,
    make_sequence,
    run,
    submit,
    text_of,
)
from tests.worker.engine.inline import Inline
from worker.engine.engine import Engine
from worker.engine.prefix_folder import PrefixFolder
from worker.engine.sequence import Sequence

SYSTEM = [1 + i * 7 % 60 for i in range(300)]
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "window": {"window": 9}, "recurrent": {"recurrent": True}}
MIB = 2**20


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = request.param
    return options


def process(folder: Path, executor: Inline | None = None, num_slots: int = 2, **kind: Any) -> Engine:
    """As if it had just started; an executor that is given holds what comes then."""
    runner = FakeModelRunner(num_slots=num_slots, context_length=500, max_batch=256, **kind)
    files = PrefixFolder(folder, str(kind), MIB, executor=executor or Inline())
    engine = make_engine(runner, cache_bytes=MIB, prefix_folder=files)
    if executor is not None:
        executor.held = True
    return engine


def ask(engine: Engine, prompt: list[int]) -> Sequence:
    sequence = submit(engine, make_sequence(prompt, max_tokens=4))
    run(engine)
    check(sequence, prompt)
    return sequence


def check(sequence: Sequence, prompt: list[int]) -> None:
    output = fetched(sequence)
    assert output is not None
    assert output.text == text_of(continuation(prompt, 4))


def ask_several(engine: Engine, system: list[int] = SYSTEM) -> None:
    for i in range(4):
        ask(engine, [*system, 61, 1 + i, 50])


@pytest.mark.parametrize("num_slots", [1, 2, 8])
def test_a_prefix_that_several_requests_began_with_is_known_after_a_restart(
    tmp_path: Path, kind: dict[str, Any], num_slots: int
) -> None:
    ask_several(process(tmp_path, num_slots=num_slots, **kind))
    engine = process(tmp_path, num_slots=num_slots, **kind)
    sequence = ask(engine, [*SYSTEM, 61, 40, 41])
    assert sequence.num_cached >= len(SYSTEM) - len(SYSTEM) % 32
    assert engine.stats().num_file_tokens_total == sequence.num_cached
    again = ask(engine, [*SYSTEM, 61, 50, 51])
    assert again.num_cached >= sequence.num_cached
    assert engine.stats().num_file_tokens_total == sequence.num_cached  # read once


def test_a_request_that_everybody_waits_for_is_read_once(tmp_path: Path, kind: dict[str, Any]) -> None:
    ask_several(process(tmp_path, **kind))
    executor = Inline()
    engine = process(tmp_path, executor, num_slots=4, **kind)
    prompts = [[*SYSTEM, 61, 40 + i, 41] for i in range(3)]
    sequences = [submit(engine, make_sequence(prompt, max_tokens=4)) for prompt in prompts]
    assert not engine.step()  # nothing to do but wait
    other = submit(engine, make_sequence([9, 9, 9], max_tokens=1))
    assert engine.step()  # who needs no file does not wait
    assert other.num_output == 1
    executor.release()
    run(engine)
    for sequence, prompt in zip(sequences, prompts, strict=True):
        check(sequence, prompt)
        assert sequence.num_cached > 250
    assert engine.runner.num_computed < 100  # type: ignore[attr-defined]


def test_the_engine_sleeps_while_all_wait_for_a_file(tmp_path: Path) -> None:
    ask_several(process(tmp_path))
    executor = Inline()
    engine = process(tmp_path, executor)
    engine.start()
    prompt = [*SYSTEM, 61, 3]
    sequence = make_sequence(prompt, max_tokens=4)
    engine.submit(sequence)
    while sequence.donor is None:
        engine.call(lambda: None)
    arrives = sequence.channel.take(threading.Event)
    assert isinstance(arrives, threading.Event)
    before = engine.scheduler._num_steps
    assert not arrives.wait(0.05)
    assert engine.scheduler._num_steps - before <= 2
    executor.release()
    assert arrives.wait(10)
    engine.close()
    assert sequence.num_cached > 250


def test_who_is_aborted_while_waiting_for_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    ask_several(process(tmp_path))
    executor = Inline()
    engine = process(tmp_path, executor)
    sequence = submit(engine, make_sequence([*SYSTEM, 3], max_tokens=4))
    engine.step()
    engine.abort(sequence)
    run(engine)
    executor.release()
    ask(engine, [*SYSTEM, 61, 4])


def test_a_conversation_alone_is_not_written(tmp_path: Path, kind: dict[str, Any]) -> None:
    engine = process(tmp_path, **kind)
    history = [*SYSTEM]
    for i in range(5):
        history += [1 + i, 30]
        history = list(ask(engine, history).tokens)
    for _ in range(3):
        ask(engine, history)
    assert list(tmp_path.iterdir()) == []


def test_what_is_short_is_not_written(tmp_path: Path) -> None:
    ask_several(process(tmp_path), SYSTEM[:200])
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_no_word_of_one_user_alone(tmp_path: Path) -> None:
    engine = process(tmp_path)
    ask_several(engine)
    found = PrefixFolder(tmp_path, str({}), MIB).found()
    assert [tokens for _, tokens in found] == [SYSTEM[:288]]


def test_a_long_pinned_prefix_is_computed_once_for_all_processes(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    for num_computed in (len(SYSTEM), 0):
        engine = process(tmp_path, **kind)
        engine._pin(SYSTEM)
        assert engine.runner.num_computed == num_computed  # type: ignore[attr-defined]
        assert ask(engine, [*SYSTEM, 61, 3]).num_cached == len(SYSTEM)


def test_a_damaged_file_is_computed_instead(tmp_path: Path, kind: dict[str, Any]) -> None:
    ask_several(process(tmp_path, **kind))
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    engine = process(tmp_path, **kind)
    assert ask(engine, [*SYSTEM, 61, 3]).num_cached == 0
    ask_several(engine)
    assert process(tmp_path, **kind).kv_cache.files is not None
    assert path.read_bytes() != content  # and it was written anew


def test_a_file_that_is_dearer_to_read_than_to_compute_is_left_alone(tmp_path: Path) -> None:
    ask_several(process(tmp_path))
    engine = process(tmp_path)
    engine.kv_cache.costs.read_byte.observe(1000, 10.0)
    assert ask(engine, [*SYSTEM, 61, 3]).num_cached == 0


def test_without_memory_for_states_there_are_no_files(tmp_path: Path) -> None:
    files = PrefixFolder(tmp_path, "", MIB, executor=Inline())
    engine = make_engine(FakeModelRunner(context_length=500), prefix_folder=files)
    ask_several(engine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(2))
def test_random_restarts_between_random_conversations_change_no_answer(
    tmp_path: Path, kind: dict[str, Any], seed: int
) -> None:
    rng = random.Random(seed)
    systems = [[rng.randrange(1, 63) for _ in range(rng.randrange(256, 330))] for _ in range(3)]
    num_from_files = 0
    for _ in range(4):
        executor = Inline()
        engine = process(tmp_path, executor, num_slots=rng.choice([1, 3]), **kind)
        asked: list[tuple[Sequence, list[int]]] = []
        for _ in range(60):
            if rng.random() < 0.4:
                prompt = [*rng.choice(systems), *(rng.randrange(1, 4) for _ in range(rng.randrange(1, 40)))]
                asked.append((submit(engine, make_sequence(prompt, max_tokens=4)), prompt))
            if rng.random() < 0.2:
                executor.release()
            engine.step()
            engine.check_integrity()
        executor.held = False
        executor.release()
        run(engine)
        for sequence, prompt in asked:
            check(sequence, prompt)
        num_from_files += engine.stats().num_file_tokens_total
    assert num_from_files > 500
