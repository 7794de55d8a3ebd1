"""What is reused is what would have been computed, on every kind of memory that a model may have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.llama.tiny_models import CONTEXT, KINDS, VOCABULARY, WINDOW, write_tiny_model
from worker.engine.runner import Chunk
from worker.llama.batched import BatchedLlama
from worker.llama.context import LlamaRunner
from worker.llama.slot_memory import measure_slot_memory

NOISE = 0.02  # in log probability, of batches of another shape
GREEDY: Any = {"temperature": 0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
TURN, ANSWER = 40, 6


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def plain(path: Path) -> Iterator[BatchedLlama]:
    llama = open_model(path, num_slots=1, prefix_cache=False, prompt_lookup=False)
    yield llama
    llama.close()


def open_model(path: Path, **kwargs: Any) -> BatchedLlama:
    return BatchedLlama(str(path), n_batch=64, n_ubatch=64, **{"n_ctx": 1024, **kwargs})


def words(rng: random.Random, number: int) -> list[int]:
    return [rng.randrange(3, len(VOCABULARY)) for _ in range(number)]


def answer(llama: BatchedLlama, tokens: list[int]) -> list[tuple[str, float]]:
    completion: Any = llama.create_completion(tokens, max_tokens=ANSWER, logprobs=2, **GREEDY)
    logprobs = completion["choices"][0]["logprobs"]
    assert isinstance(logprobs["token_logprobs"][0], float)
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))


def check_equal(reused: list[tuple[str, float]], computed: list[tuple[str, float]]) -> None:
    """Equal up to the first near-tie that falls the other way."""
    for (token, logprob), (expected, expected_logprob) in zip(reused, computed, strict=True):
        assert logprob == pytest.approx(expected_logprob, abs=NOISE)
        if token != expected:
            break


@pytest.mark.parametrize("unified", [False, True])
def test_conversations_that_lose_their_slots_go_on_as_if_they_had_not(
    path: Path, plain: BatchedLlama, unified: bool
) -> None:
    llama = open_model(path, num_slots=2, cache_mb=64, kv_unified=unified)
    rng = random.Random(7)
    system = words(rng, 3 * WINDOW)
    histories = [list(system) for _ in range(4)]
    num_prompt = 0
    for turn in range(4):
        for i, history in enumerate(histories):
            history += words(rng, TURN)
            num_prompt += len(history)
            check_equal(answer(llama, history), answer(plain, history))
            # The answer as the client sends it back, which may be other tokens than those that were sampled.
            history += words(rng, ANSWER) if (turn + i) % 3 == 0 else []
    llama.check_integrity()
    assert llama.stats().num_cached_tokens_total > 0.6 * num_prompt
    llama.close()


def test_an_edited_message_and_a_second_try_reuse_what_came_before(path: Path, plain: BatchedLlama) -> None:
    llama = open_model(path, num_slots=2, cache_mb=64)
    rng = random.Random(8)
    prompt = words(rng, 5 * WINDOW)
    for _ in range(3):
        check_equal(answer(llama, prompt), answer(plain, prompt))
    before = llama.stats().num_cached_tokens_total
    check_equal(answer(llama, prompt), answer(plain, prompt))
    assert llama.stats().num_cached_tokens_total - before == len(prompt) - 1
    for length in (4 * WINDOW, 2 * WINDOW):
        for _ in range(3):
            before = llama.stats().num_cached_tokens_total
            edited = prompt[:length] + words(rng, 10)
            check_equal(answer(llama, edited), answer(plain, edited))
        assert llama.stats().num_cached_tokens_total - before == length
    llama.check_integrity()
    llama.close()


def test_a_prefix_outlasts_the_process_and_goes_on_as_if_it_had_not_ended(
    path: Path, plain: BatchedLlama, tmp_path: Path
) -> None:
    rng = random.Random(11)
    system = words(rng, 12 * WINDOW)
    for _ in range(2):
        llama = open_model(path, num_slots=2, cache_mb=64, cache_dir=tmp_path)
        for _ in range(4):
            prompt = system + words(rng, TURN)
            check_equal(answer(llama, prompt), answer(plain, prompt))
        llama.check_integrity()
        stats = llama.stats()
        llama.close()
    assert stats.num_file_tokens_total == len(system)
    assert stats.num_prompt_tokens_total == 4 * TURN
    # Another context's states, or another file's, are not its own.
    for change in ({"type_k": 8, "type_v": 8}, {"n_ctx": 512}):
        llama = open_model(path, num_slots=2, cache_mb=64, cache_dir=tmp_path, **change)
        answer(llama, system + words(rng, TURN))
        assert llama.stats().num_file_tokens_total == 0
        llama.close()


def test_choices_of_one_prompt_share_its_prefill(path: Path, plain: BatchedLlama) -> None:
    llama = open_model(path, num_slots=4, cache_mb=64)
    prompt = words(random.Random(9), 6 * WINDOW)
    streams: Any = [
        llama.create_completion(prompt, max_tokens=ANSWER, stream=True, **GREEDY) for _ in range(4)
    ]
    texts = ["".join(chunk["choices"][0]["text"] for chunk in stream) for stream in streams]
    expected: Any = plain.create_completion(prompt, max_tokens=ANSWER, **GREEDY)
    assert texts == [expected["choices"][0]["text"]] * 4
    assert llama.stats().num_prompt_tokens_total <= len(prompt) + 3
    llama.close()


def test_a_state_cannot_be_cut_further_than_its_memory_allows(path: Path) -> None:
    llama = open_model(path, num_slots=1)
    memory = measure_slot_memory(llama._model, llama._ctx.ctx)
    runner = LlamaRunner(
        llama._model,
        num_slots=2,
        context_length=1024,
        n_batch=64,
        n_threads=1,
        n_ubatch=64,
        slot_memory=memory,
    )
    tokens = words(random.Random(10), 512)
    for start in range(0, 512, 64):
        runner.decode([Chunk(0, start, tokens[start : start + 64])])
    state = runner.save(0)
    forgets = not (memory.can_truncate and not memory.window)
    assert (state.length, state.shortest > 0, runner.keeps_every_position) == (512, forgets, not forgets)
    assert runner.shortest(0) <= state.shortest
    for length in {state.shortest or 100, 512}:
        runner.load(state, 1, length)
        assert runner.length(1) == length
        alone = runner.decode([Chunk(1, length, [5], 1)]).copy()
        fresh = prefill(llama, tokens[:length])
        assert abs(alone - fresh.decode([Chunk(0, length, [5], 1)])).max() < 0.05
        fresh.close()
        runner.truncate(1, 0)
    if not memory.can_truncate:
        with pytest.raises(RuntimeError, match="cannot be cut"):
            runner.truncate(0, 100)
    runner.close()
    llama.close()


def prefill(llama: BatchedLlama, tokens: list[int]) -> LlamaRunner:
    runner = LlamaRunner(llama._model, num_slots=1, context_length=1024, n_batch=64, n_threads=1, n_ubatch=64)
    for start in range(0, len(tokens), 64):
        runner.decode([Chunk(0, start, tokens[start : start + 64])])
    return runner


def test_a_slot_is_counted_as_llama_cpp_allocates_it(path: Path) -> None:
    """To within what a state takes beside its cells: a position and a sequence id for each."""
    llama = open_model(path, num_slots=1)
    memory = measure_slot_memory(llama._model, llama._ctx.ctx)
    half = 2  # bytes of a value
    heads = 32 * half * 2  # keys and values of a layer with one head
    cells = 256  # a window of 32 and a batch of 64, rounded up
    expected = {
        "llama": 2 * heads * CONTEXT,
        "gemma3": heads * CONTEXT + 5 * heads * cells,
        "mamba": 2 * (128 * 16 + 3 * 128) * 4,
        "lfm2": heads * CONTEXT + 2 * 64 * 4,
    }[path.stem.removeprefix("tiny-")]
    assert memory.num_bytes(CONTEXT, 64) == pytest.approx(expected, rel=0.12)
    llama.close()
