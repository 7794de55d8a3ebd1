"""The engine over a model without weights: what is computed, who waits, and who gets out how."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence as SequenceOf
from typing import Any

import pytest

from tests.worker.engine.fake_runner import (
    FakeModelRunner,
    NextToken,
    continuation,
    fetched,
    make_engine,
    make_sequence,
    next_token,
    repeating_token,
    run,
    submit,
    text_of,
)
from worker.engine.engine import MAX_FAULTS
from worker.engine.sequence import Channel, Output, Sequence, State
from worker.protocol import Overloaded, WorkerFailed


def test_a_sequence_generates_what_it_would_on_its_own() -> None:
    engine = make_engine()
    sequences = [submit(engine, make_sequence([i, 5, i])) for i in range(1, 10)]
    run(engine)
    for i, sequence in enumerate(sequences, 1):
        assert fetched(sequence) == Output(text_of(continuation([i, 5, i], 8)), finish_reason="length")
        assert fetched(sequence) is None


def test_a_prompt_is_computed_at_once_when_nothing_else_runs() -> None:
    runner = FakeModelRunner(context_length=200, max_batch=200)
    engine = make_engine(runner)
    sequence = submit(engine, make_sequence([9] * 150))
    engine.step()
    assert sequence.num_output == 1


def test_first_come_first_served() -> None:
    engine = make_engine(FakeModelRunner(num_slots=2))
    sequences = [submit(engine, make_sequence([i] * 4, max_tokens=4)) for i in range(1, 7)]
    finished: list[Sequence] = []
    while not engine.is_idle:
        engine.step()
        finished += [s for s in sequences if s.state is State.FINISHED and s not in finished]
    assert finished == sequences


def test_a_repeated_prompt_computes_its_last_token_only() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    submit(engine, make_sequence(prompt, max_tokens=1))
    run(engine)
    assert runner.num_computed == 8
    again = submit(engine, make_sequence(prompt, max_tokens=1))
    run(engine)
    assert runner.num_computed == 8 + 1
    assert again.num_cached == 7


def test_a_conversation_continues_where_its_slot_left_off() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    first = submit(engine, make_sequence([3, 1, 4, 1, 5], max_tokens=6))
    run(engine)
    before = runner.num_computed
    follow_up = submit(engine, make_sequence([*first.tokens, 8, 8], max_tokens=1))
    run(engine)
    # The last generated token was never computed, and two are new.
    assert runner.num_computed - before == 3
    assert follow_up.num_cached == 10


def test_prefixes_of_running_sequences_are_shared_too() -> None:
    runner = FakeModelRunner(copies_are_free=True)
    engine = make_engine(runner)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    submit(engine, make_sequence(prompt, max_tokens=20))
    engine.step()
    assert runner.num_computed == 8
    second = submit(engine, make_sequence([*prompt, 7], max_tokens=20))
    engine.step()
    assert second.num_cached == 8
    run(engine)
    assert fetched(second) == Output(text_of(continuation([*prompt, 7], 20)), finish_reason="length")


def test_choices_of_one_prompt_share_its_prefill() -> None:
    runner = FakeModelRunner(num_slots=4, context_length=200, max_batch=32)
    engine = make_engine(runner)
    prompt = [1 + i % 40 for i in range(100)]
    choices = [submit(engine, make_sequence(prompt, max_tokens=1)) for _ in range(4)]
    run(engine)
    assert runner.num_computed == 100 + 3
    assert [c.num_cached for c in choices] == [0, 99, 99, 99]
    assert len({fetched(c).text for c in choices}) == 1  # type: ignore[union-attr]


def test_who_waits_for_anothers_prefill_goes_on_when_that_one_is_aborted() -> None:
    runner = FakeModelRunner(num_slots=2, context_length=200, max_batch=16)
    engine = make_engine(runner)
    prompt = [1 + i % 40 for i in range(100)]
    first, second = (submit(engine, make_sequence(prompt, max_tokens=3)) for _ in range(2))
    engine.step()
    assert (first.num_computed, second.num_computed) == (16, 0)
    engine.abort(first)
    run(engine)
    assert second.num_cached == 16
    assert fetched(second) == Output(text_of(continuation(prompt, 3)), finish_reason="length")


def test_without_the_prefix_cache_every_token_is_computed() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner, prefix_cache=False)
    for _ in range(3):
        submit(engine, make_sequence([3, 1, 4, 1, 5], max_tokens=1))
        run(engine)
    assert runner.num_computed == 15


@pytest.mark.parametrize("copies_are_free", [True, False])
def test_a_pinned_prefix_is_never_evicted(copies_are_free: bool) -> None:
    runner = FakeModelRunner(num_slots=2, copies_are_free=copies_are_free)
    engine = make_engine(runner)
    prefix = [3, 1, 4, 1, 5, 9, 2, 6]
    engine._pin(prefix)
    for i in range(10, 16):
        submit(engine, make_sequence([i] * 20, max_tokens=4))
    run(engine)
    before = runner.num_computed
    sequence = submit(engine, make_sequence([*prefix, 7], max_tokens=2))
    run(engine)
    assert runner.num_computed - before == 2
    assert fetched(sequence) == Output(text_of(continuation([*prefix, 7], 2)), finish_reason="length")


def test_a_lasting_hole_between_busy_slots_is_closed_and_loses_nothing() -> None:
    runner = FakeModelRunner(num_slots=4)
    engine = make_engine(runner)
    sequences = [submit(engine, make_sequence([i, i], max_tokens=3 if i == 2 else 20)) for i in range(1, 5)]
    short = sequences.pop(1)
    while short.state is not State.FINISHED:
        engine.step()
    engine.step()
    assert [s.slot for s in sequences] == [0, 2, 3]  # somebody may come
    engine.step()
    assert [s.slot for s in sequences] == [0, 2, 1]
    again = submit(engine, make_sequence([2, 2, *short.tokens[2:4], 9], max_tokens=1))
    run(engine)
    assert again.num_cached == 4
    for i, sequence in zip((1, 3, 4), sequences, strict=True):
        assert fetched(sequence) == Output(text_of(continuation([i, i], 20)), finish_reason="length")


@pytest.mark.parametrize("when", ["inbox", "queue", "prefill", "decode", "finished"])
def test_abort_frees_the_slot_within_one_step(when: str) -> None:
    engine = make_engine(FakeModelRunner(num_slots=1, max_batch=8))
    blocker = submit(engine, make_sequence([1], max_tokens=50)) if when == "queue" else None
    sequence = make_sequence([2] * 20, max_tokens=20)
    engine.submit(sequence)
    if when != "inbox":
        engine.drain()
    for _ in range({"inbox": 0, "queue": 2, "prefill": 1, "decode": 6, "finished": 30}[when]):
        engine.step()
    engine.abort(sequence)
    engine.abort(sequence)
    engine.drain()
    engine.step()
    assert sequence.state is State.FINISHED
    assert engine.kv_cache.num_free == (0 if blocker else 1)
    assert fetched(sequence) is None
    if blocker is not None:
        engine.abort(blocker)
    run(engine)


def test_stop_strings_end_a_sequence_and_free_its_slot() -> None:
    engine = make_engine()
    whole = text_of(continuation([1, 2], 20))
    sequence = submit(engine, make_sequence([1, 2], max_tokens=20, stop=(whole[9:12], whole[5:7])))
    run(engine)
    assert fetched(sequence) == Output(whole[:5], finish_reason="stop", stop=whole[5:7])


def test_a_sequence_that_repeats_itself_takes_fewer_steps_when_alone() -> None:
    runner = FakeModelRunner(next_token=repeating_token)
    engine = make_engine(runner)
    sequence = submit(engine, make_sequence([1, 2, 3, 4], max_tokens=40))
    run(engine)
    output = fetched(sequence)
    assert output is not None
    assert output.text == text_of(continuation([1, 2, 3, 4], 40, repeating_token))
    assert len(runner.batches) < 30
    stats = engine.stats()
    assert stats.num_draft_tokens_total >= stats.num_accepted_tokens_total == 40 - len(runner.batches)


def test_nobody_runs_ahead_while_another_runs() -> None:
    runner = FakeModelRunner(next_token=repeating_token)
    engine = make_engine(runner)
    for _ in range(2):
        submit(engine, make_sequence([1, 2, 3, 4], max_tokens=40))
    engine.drain()
    engine.step()
    run(engine)
    assert engine.stats().num_draft_tokens_total == 0


def test_drafts_stop_where_they_are_rarely_right() -> None:
    def always_another(tokens: SequenceOf[int]) -> int:
        """7, 7, 7 and then what never came after it before, not for a while."""
        return 1 + len(tokens) // 4 % 50 if len(tokens) % 4 == 3 else 60

    runner = FakeModelRunner(context_length=600, next_token=always_another)
    engine = make_engine(runner)
    submit(engine, make_sequence([60, 60, 60, 1, 60, 60], max_tokens=200))
    run(engine)
    drafts = sum(len(chunk.tokens) > 1 for batch in runner.batches[1:] for chunk in batch)
    assert 0 < drafts < 15  # of 50 chances


@pytest.mark.parametrize("stop", ["D", "DA", "AB"])
def test_a_stop_string_inside_a_draft_ends_the_sequence_there(stop: str) -> None:
    runner = FakeModelRunner(next_token=lambda tokens: 1 + tokens[-1] % 4)
    engine = make_engine(runner)
    prompt = [2, 3, 4, 1] * 3
    sequence = submit(engine, make_sequence(prompt, max_tokens=40, stop=(stop,)))
    run(engine)
    text = text_of(continuation(prompt, 40, lambda tokens: 1 + tokens[-1] % 4))
    assert fetched(sequence) == Output(text[: text.index(stop)], finish_reason="stop", stop=stop)


def test_the_context_ends_a_sequence() -> None:
    runner = FakeModelRunner(context_length=16)
    engine = make_engine(runner)
    sequence = submit(engine, make_sequence([1] * 10, max_tokens=6))
    run(engine)
    output = fetched(sequence)
    assert output is not None
    assert (len(output.text), output.finish_reason) == (6, "length")


def test_a_failed_decode_fails_only_the_sequence_concerned() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)
    good = [submit(engine, make_sequence([i, i], max_tokens=4)) for i in (1, 2)]
    runner.poison = 63
    bad = submit(engine, make_sequence([5, 63, 5], max_tokens=4))
    run(engine)
    output = fetched(bad)
    assert output is not None
    assert isinstance(output.error, WorkerFailed)
    for i, sequence in zip((1, 2), good, strict=True):
        assert fetched(sequence) == Output(text_of(continuation([i, i], 4)), finish_reason="length")
    assert engine.alive


@pytest.mark.parametrize("alone", [True, False])
def test_a_sampler_that_fails_ends_only_its_own_sequence(alone: bool) -> None:
    """A caller's own code, or numbers that no distribution can be made of; alone it runs over drafts too."""
    runner = FakeModelRunner(next_token=repeating_token)
    engine = make_engine(runner)
    failing = submit(engine, make_sequence([1, 2, 3, 4], max_tokens=40))
    other = None if alone else submit(engine, make_sequence([5], max_tokens=20))

    def fail_at_the_20th(tokens: list[int]) -> bool:
        if len(tokens) == 20:
            raise ValueError("a caller's bug")
        return False

    failing.stopping = fail_at_the_20th
    run(engine)
    output = fetched(failing)
    assert output is not None
    assert isinstance(output.error, WorkerFailed)
    if other is not None:
        expected = text_of(continuation([5], 20, repeating_token))
        assert fetched(other) == Output(expected, finish_reason="length")
    again = submit(engine, make_sequence([1, 2, 3, 4], max_tokens=30))
    run(engine)
    assert fetched(again) == Output(
        text_of(continuation([1, 2, 3, 4], 30, repeating_token)), finish_reason="length"
    )


def test_a_consumer_collected_while_it_is_written_to_does_not_lock_its_channel() -> None:
    """The collector may run anywhere, and a dropped stream closes its channel."""
    channel = Channel()

    class Collected(str):
        def __radd__(self, text: str) -> str:
            channel.close()
            return text

    channel.put(Output("a"))
    channel.put(Output(Collected("b")))
    channel.put(Output("c"))
    assert channel.take(lambda: pytest.fail("the channel is closed")) is None


def test_a_full_queue_refuses_with_a_time_to_retry() -> None:
    engine = make_engine(FakeModelRunner(num_slots=2), max_waiting=3)
    for _ in range(5):
        engine.submit(make_sequence([1]))
    with pytest.raises(Overloaded) as refusal:
        engine.submit(make_sequence([1]))
    assert refusal.value.retry_after >= 1
    run(engine)
    engine.submit(make_sequence([1]))


def test_slow_consumers_get_one_merged_output() -> None:
    engine = make_engine()
    sequence = submit(engine, make_sequence([1, 2], max_tokens=20))
    for _ in range(5):
        engine.step()
    assert fetched(sequence) == Output(text_of(continuation([1, 2], 5)))


def test_exceptions_without_end_mark_the_engine_dead() -> None:
    runner = FakeModelRunner()
    engine = make_engine(runner)

    def explode(chunks: object) -> None:
        raise ValueError("a bug")

    runner.decode = explode  # type: ignore[method-assign, assignment]
    engine.start()
    for _ in range(MAX_FAULTS + 1):
        engine.submit(sequence := make_sequence([1]))
        assert isinstance(wait_for(sequence).error, WorkerFailed)
    assert not engine.alive
    with pytest.raises(WorkerFailed):
        engine.submit(make_sequence([3]))
    with pytest.raises(WorkerFailed):
        engine.pin_prefix([1, 2])
    engine.close()


def test_who_waits_on_the_engines_thread_is_told_when_it_dies() -> None:
    engine = make_engine()

    def die() -> None:
        raise KeyboardInterrupt

    engine.start()
    engine._inbox.put(die)
    with pytest.raises(WorkerFailed):
        engine.call(lambda: None)
    engine.close()


def test_close_answers_everything_under_way() -> None:
    engine = make_engine(FakeModelRunner(num_slots=1, context_length=10**6))
    sequences = [make_sequence([i], max_tokens=10**6) for i in range(1, 4)]
    for sequence in sequences:
        engine.submit(sequence)
    engine.start()
    engine.close()
    for sequence in sequences:
        output = wait_for(sequence)
        while output.error is None:
            output = wait_for(sequence)
        assert isinstance(output.error, WorkerFailed)
    with pytest.raises(WorkerFailed):
        engine.submit(make_sequence([1]))


@pytest.mark.parametrize(
    "kind", [{}, {"window": 9}, {"recurrent": True}], ids=["plain", "window", "recurrent"]
)
@pytest.mark.parametrize("cache_bytes", [0, 3_000])
@pytest.mark.parametrize("next_token", [next_token, repeating_token])
@pytest.mark.parametrize("copies_are_free", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_random_additions_and_aborts_keep_slots_and_outputs_right(
    seed: int, copies_are_free: bool, next_token: NextToken, cache_bytes: int, kind: dict[str, Any]
) -> None:
    rng = random.Random(seed)
    runner = FakeModelRunner(5, 80, 12, copies_are_free, next_token, **kind)
    engine = make_engine(runner, cache_bytes=cache_bytes)
    stems = [[rng.randrange(1, 63) for _ in range(rng.randrange(1, 60))] for _ in range(4)]
    live: list[tuple[list[int], Sequence]] = []
    aborted: set[Sequence] = set()
    done: list[tuple[list[int], Sequence]] = []
    for i in range(1500):
        one_at_a_time = i % 300 > 150
        action = rng.random()
        if action < 0.25 and not (one_at_a_time and live):
            stem = rng.choice(stems)
            prompt = stem[: rng.randrange(1, len(stem) + 1)] + [rng.randrange(1, 63)] * rng.randrange(3)
            client = rng.choice(["", "", "one", "another"])
            sequence = make_sequence(prompt, max_tokens=rng.randrange(1, 80 - len(prompt)), client=client)
            engine.submit(sequence)
            live.append((prompt, sequence))
        elif action < 0.32 and live:
            sequence = rng.choice(live)[1]
            engine.abort(sequence)
            aborted.add(sequence)
        elif action < 0.34:
            runner.poison = rng.choice([None, None, rng.randrange(1, 63)])
        engine.drain()
        engine.step()
        engine.check_integrity()
        done += [pair for pair in live if pair[1].state is State.FINISHED]
        live = [pair for pair in live if pair[1].state is not State.FINISHED]
    runner.poison = None
    run(engine)
    assert engine.kv_cache.num_free == 5
    completed = 0
    for prompt, sequence in done + live:
        output = fetched(sequence)
        if sequence in aborted or output is None or output.error is not None:
            continue
        completed += 1
        assert output.text == text_of(continuation(prompt, sequence.max_tokens, next_token))
    assert completed > 50
    stats = engine.stats()
    assert (stats.num_memory_tokens_total > 100) == (cache_bytes > 0)
    drafts = next_token is repeating_token and not runner.recurrent
    assert drafts == (stats.num_accepted_tokens_total > 10)


def wait_for(sequence: Sequence) -> Output:
    while True:
        item = sequence.channel.take(threading.Event)
        if isinstance(item, Output):
            return item
        assert isinstance(item, threading.Event)
        assert item.wait(10)
