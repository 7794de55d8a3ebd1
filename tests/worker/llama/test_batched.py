"""BatchedLlama on a real small model, against the library's own serial `Llama` where they must agree."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from worker.chat.constraint import ConstraintError
from worker.engine.runner import Chunk
from worker.engine.stream import CompletionStream
from worker.llama.batched import BatchedLlama
from worker.llama.context import PLAIN, LlamaRunner
from worker.llama.library import llama_cpp
from worker.llama.machine import available_cores
from worker.llama.memory import CACHE_MB, MAX_SLOTS, MIB, RESERVED_MB, divide_memory
from worker.models.default import default_model
from worker.models.files import ModelFileError
from worker.protocol import ContextLengthExceeded, InvalidRequest, Overloaded, WorkerFailed
from worker.service import load_llama
from worker.settings import WorkerSettings

SYSTEM = "You are a helpful assistant that knows everything about clouds and answers briefly."
QUESTIONS = [
    "What is a cumulus cloud?",
    "Why are clouds white?",
    "How high are cirrus clouds?",
    "What is fog?",
    "Which clouds bring rain?",
    "Name three types of clouds.",
    "What makes a thunderstorm?",
    "Can clouds freeze?",
]
GREEDY: Any = {"temperature": 0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module", params=[False, True], ids=["streams", "unified"])
def llama(request: pytest.FixtureRequest) -> Iterator[BatchedLlama]:
    llama = BatchedLlama(str(default_model()), n_ctx=512, num_slots=4, kv_unified=request.param)
    yield llama
    llama.check_integrity()
    llama.close()


@pytest.fixture(scope="module")
def stock() -> Iterator[llama_cpp.Llama]:
    llama = llama_cpp.Llama(str(default_model()), n_ctx=512, flash_attn=True, logits_all=True, verbose=False)
    yield llama
    llama.close()


def messages(question: str) -> Any:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def ask(llama: Any, question: str, **kwargs: Any) -> str:
    answer = llama.create_chat_completion(messages(question), **{"max_tokens": 24, **GREEDY, **kwargs})
    return str(answer["choices"][0]["message"]["content"])


def prompt(llama: BatchedLlama, text: str) -> list[int]:
    return llama.tokenize(text.encode(), add_bos=False, special=True)


def open_stream(llama: BatchedLlama, text: str, **kwargs: Any) -> CompletionStream:
    stream = llama.create_completion(prompt(llama, text), stream=True, **kwargs)
    assert isinstance(stream, CompletionStream)
    return stream


def skip_where_rounding_varies(llama: BatchedLlama) -> None:
    if llama.engine.runner.copies_are_free:
        pytest.skip("a unified cache rounds by where in it a sequence's cells happen to be")


def test_batched_answers_equal_serial_ones(llama: BatchedLlama, stock: llama_cpp.Llama) -> None:
    """Batches round differently, so a near-tie may fall the other way: one answer in eight may.

    Three where all share one cache, which rounds by where in it a sequence's cells happen to be as well.
    """
    near_ties = 3 if llama.engine.runner.copies_are_free else 1
    with ThreadPoolExecutor(8) as pool:
        batched = list(pool.map(lambda question: ask(llama, question), QUESTIONS))
    serial = [ask(stock, question) for question in QUESTIONS]
    assert sum(b == s for b, s in zip(batched, serial, strict=True)) >= len(QUESTIONS) - near_ties
    assert all(b[:10] == s[:10] for b, s in zip(batched, serial, strict=True))


def test_a_shared_prefix_is_computed_once(llama: BatchedLlama) -> None:
    ask(llama, QUESTIONS[0], max_tokens=1)
    before = llama.stats()
    for question in QUESTIONS[1:4]:
        ask(llama, question, max_tokens=1)
    after = llama.stats()
    computed = after.num_prompt_tokens_total - before.num_prompt_tokens_total
    cached = after.num_cached_tokens_total - before.num_cached_tokens_total
    assert computed < 3 * 20
    assert cached > 3 * 20


def test_log_probabilities_equal_the_librarys(llama: BatchedLlama, stock: llama_cpp.Llama) -> None:
    options: Any = {"max_tokens": 5, "logprobs": 3, **GREEDY}
    tokens = prompt(llama, "The sky is blue because")
    ours = llama.create_completion(tokens, **options)
    theirs: Any = stock.create_completion(tokens, **options)
    assert isinstance(ours, dict)
    mine, reference = ours["choices"][0]["logprobs"], theirs["choices"][0]["logprobs"]
    assert mine["tokens"] == reference["tokens"]
    # Q4_0 kernels round by batch shape.
    assert mine["token_logprobs"] == pytest.approx([float(p) for p in reference["token_logprobs"]], abs=0.1)
    assert [set(top) for top in mine["top_logprobs"]] == [set(top) for top in reference["top_logprobs"]]


def test_a_prompts_log_probabilities_are_the_models_own(llama: BatchedLlama, stock: llama_cpp.Llama) -> None:
    """As an evaluation harness reads them: how likely a continuation is, and whether it is the likeliest."""
    context, continued = (prompt(llama, text) for text in ("The capital of France is", " Paris, of course."))
    tokens = context + continued
    stock.reset()  # type: ignore[no-untyped-call]
    stock.eval(tokens)
    direct = llama_cpp.Llama.logits_to_logprobs(stock.scores[: len(tokens)])
    wanted = [float(direct[i - 1][token]) for i, token in enumerate(tokens) if i >= len(context)]
    for max_tokens, end in ((0, None), (1, -1)):
        answer: Any = llama.create_completion(
            tokens, echo=True, logprobs=1, **{**GREEDY, "max_tokens": max_tokens}
        )
        logprobs = answer["choices"][0]["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert "".join(logprobs["tokens"][:end]) == "The capital of France is Paris, of course."
        assert logprobs["token_logprobs"][len(context) : end] == pytest.approx(wanted, abs=0.1)
        likeliest = [int(direct[i - 1].argmax()) == token for i, token in enumerate(tokens) if i]
        mine = [
            p == max(top.values())
            for p, top in zip(logprobs["token_logprobs"][1:end], logprobs["top_logprobs"][1:end], strict=True)
        ]
        assert mine == likeliest


def test_completions_have_the_librarys_shape(llama: BatchedLlama, stock: llama_cpp.Llama) -> None:
    tokens = prompt(llama, "Clouds are")
    ours: Any = llama.create_completion(tokens, max_tokens=4, **GREEDY)
    theirs: Any = stock.create_completion(tokens, max_tokens=4, **GREEDY)
    for key in ("id", "created"):
        assert type(ours.pop(key)) is type(theirs.pop(key))
    assert ours == theirs


def test_streamed_chunks_add_up_to_the_whole(llama: BatchedLlama) -> None:
    skip_where_rounding_varies(llama)
    whole: Any = llama.create_completion(prompt(llama, "Clouds are"), max_tokens=12, **GREEDY)
    chunks = list(open_stream(llama, "Clouds are", max_tokens=12, **GREEDY))
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({c["id"] for c in chunks}) == 1


def test_seeds_repeat(llama: BatchedLlama) -> None:
    skip_where_rounding_varies(llama)
    options: Any = {"temperature": 1.0, "max_tokens": 12}
    assert ask(llama, "Tell a story.", seed=5, **options) == ask(llama, "Tell a story.", seed=5, **options)
    assert ask(llama, "Tell a story.", **options) != ask(llama, "Tell a story.", **options)


def test_grammars_hold(llama: BatchedLlama) -> None:
    grammar = llama.constraints.compile(r'start: "{\"cloud\": \"" /[a-z]{1,12}/ "\"}"')
    for temperature in (0.0, 1.5):
        answer = ask(llama, "Name a cloud.", grammar=grammar, temperature=temperature, max_tokens=40)
        assert set(json.loads(answer)) == {"cloud"}
    with pytest.raises(InvalidRequest, match=r"constraints\.compile"):
        ask(llama, "Name a cloud.", grammar="start: /a/")
    with pytest.raises(ConstraintError):
        llama.constraints.compile("start: (")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_without_a_way_on_ends_its_own_request(llama: BatchedLlama, temperature: float) -> None:
    grammar = llama.constraints.compile("start: /((a{0,20}){0,20}){0,20}b/")  # which takes ever longer
    bias = {token: -100.0 for token in range(llama.vocabulary.size) if b"b" in llama.vocabulary.piece(token)}
    with pytest.raises(InvalidRequest, match="cannot be held any longer"):
        ask(llama, "Say a.", grammar=grammar, temperature=temperature, logit_bias=bias, max_tokens=400)
    assert llama.alive


def test_json_mode_of_the_library_works(llama: BatchedLlama) -> None:
    answer = ask(llama, "A cloud as JSON.", response_format={"type": "json_object"}, max_tokens=100, stop="}")
    assert answer.startswith("{")


@pytest.mark.parametrize(
    "options",
    [
        {"typical_p": 0.5, "temperature": 1.0},
        {"mirostat_mode": 1, "temperature": 1.0},
        {"mirostat_mode": 2, "temperature": 1.0},
        {"top_p": 0.9, "top_k": 40, "min_p": 0.05, "temperature": 0.8},
        {"presence_penalty": 1.0, "frequency_penalty": 1.0, "repeat_penalty": 1.1},
    ],
)
def test_every_sampler_of_the_library_is_served(llama: BatchedLlama, options: dict[str, Any]) -> None:
    assert ask(llama, "What is fog?", seed=3, **options)


def test_stop_strings_and_criteria_and_processors(llama: BatchedLlama) -> None:
    whole = ask(llama, QUESTIONS[0])
    assert ask(llama, QUESTIONS[0], stop=[whole[9:14]]) == whole[: whole.index(whole[9:14])]
    stopped: Any = llama.create_completion(
        prompt(llama, "Clouds are"), max_tokens=9, stopping_criteria=[lambda tokens, row: len(tokens) >= 5]
    )
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["total_tokens"] == 5

    def only_seven(tokens: Any, row: Any) -> Any:
        row[:] = -100
        row[seven] = 0
        return row

    [seven] = prompt(llama, "7")
    forced: Any = llama.create_completion(
        prompt(llama, "Clouds are"), max_tokens=4, logits_processor=[only_seven]
    )
    assert forced["choices"][0]["text"] == "7777"


def test_too_long_prompts_are_refused_before_anything_runs(llama: BatchedLlama) -> None:
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 512 tokens"):
        llama.create_completion([5] * 512)
    with pytest.raises(InvalidRequest):
        llama.create_completion([10**6])
    with pytest.raises(InvalidRequest, match="49152"):
        llama.create_completion([1], logit_bias={49152: 1.0})


def test_generation_ends_with_the_context(llama: BatchedLlama) -> None:
    filled: Any = llama.create_completion([500] * 505, max_tokens=None, logit_bias={2: -100.0}, **GREEDY)
    assert filled["choices"][0]["finish_reason"] == "length"
    assert filled["usage"]["total_tokens"] == 512


def test_many_async_consumers_share_one_batch(llama: BatchedLlama) -> None:
    async def read(number: int) -> str:
        text = ""
        async for output in open_stream(llama, f"Count from {number}:", max_tokens=10, **GREEDY):
            assert output.error is None
            text += output.text
        return text

    async def read_all() -> list[str]:
        return await asyncio.gather(*(read(n) for n in range(12)))

    threads = threading.active_count()
    before = llama.stats()
    texts = asyncio.run(read_all())
    after = llama.stats()
    assert all(texts)
    assert threading.active_count() == threads
    # Twelve sequences of ten tokens in far fewer steps than 120.
    assert after.num_steps_total - before.num_steps_total < 60


def test_leaving_an_async_stream_frees_its_slot(llama: BatchedLlama) -> None:
    async def leave() -> None:
        stream = open_stream(llama, "Once upon a time", max_tokens=400)
        await anext(stream)
        stream.abort()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(leave())
    llama.check_integrity()
    assert llama.stats().num_running == 0


def test_a_waiting_async_consumer_can_be_cancelled(llama: BatchedLlama) -> None:
    async def cancel() -> None:
        stream = open_stream(llama, "Once upon a time", max_tokens=400)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await anext(stream)  # nothing was lost
        stream.abort()

    asyncio.run(cancel())


def test_dropping_the_librarys_chat_stream_frees_its_slot(llama: BatchedLlama) -> None:
    chunks: Any = llama.create_chat_completion(messages("Tell a long story."), stream=True, max_tokens=400)
    next(chunks)
    del chunks
    gc.collect()
    llama.check_integrity()
    assert llama.stats().num_running == 0


def test_pinned_prefix_survives_other_work() -> None:
    llama = BatchedLlama(str(default_model()), n_ctx=256, num_slots=1, cache_mb=0)
    prefix = prompt(llama, f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
    llama.prefill_prefix(prefix)
    fresh = ask(llama, QUESTIONS[1])
    llama.create_completion([700] * 100, max_tokens=2)
    before = llama.stats().num_cached_tokens_total
    assert ask(llama, QUESTIONS[1]) == fresh
    assert llama.stats().num_cached_tokens_total - before == len(prefix)
    llama.close()


def test_after_a_fault_it_answers_as_before(llama: BatchedLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had been computed is gone, and nothing of it is left in the way."""
    skip_where_rounding_varies(llama)
    before = ask(llama, QUESTIONS[0])
    with monkeypatch.context() as broken:

        def fail(num_rows: int) -> NoReturn:
            raise ValueError("a bug")

        broken.setattr(llama.engine.runner, "_read_logits", fail)
        with pytest.raises(WorkerFailed):
            ask(llama, QUESTIONS[1])
    assert ask(llama, QUESTIONS[0]) == before
    llama.check_integrity()


def test_a_full_batch_has_room_for_the_holes_between_its_slots(llama: BatchedLlama) -> None:
    """llama.cpp aborts the whole process on a batch that is larger than the context was made for."""
    runner = LlamaRunner(llama._model, num_slots=4, context_length=64, n_batch=32, n_threads=1)
    rows = runner.decode([Chunk(0, 0, [1] * 31, 1), Chunk(3, 0, [1], 1)])
    assert len(rows) == 2
    assert [runner.length(slot) for slot in range(4)] == [31, 0, 0, 1]
    runner.close()


def test_no_token_is_thrown_away_where_a_state_could_not_give_it_back(llama: BatchedLlama) -> None:
    for can_truncate, thrown_away in ((True, 2), (False, 0)):
        memory = replace(PLAIN, can_truncate=can_truncate)
        runner = LlamaRunner(
            llama._model, num_slots=4, context_length=64, n_batch=32, n_threads=1, slot_memory=memory
        )
        assert len(runner.decode([Chunk(0, 0, [1], 1), Chunk(3, 0, [1], 1)])) == 2
        assert runner.num_dummy_tokens == thrown_away
        runner.close()


def test_slots_and_cache_share_what_the_model_leaves(llama: BatchedLlama) -> None:
    model, slot_bytes = llama._model.size(), 100 * MIB
    memory_mb = round(RESERVED_MB + model / MIB + 1050)
    slots, cache_mb = divide_memory(model, slot_bytes, memory_mb)
    assert slots == 7
    assert cache_mb == pytest.approx(262, abs=1)
    assert divide_memory(model, slot_bytes, memory_mb, 2) == (2, cache_mb)
    assert divide_memory(model, slot_bytes, memory_mb, 9)[1] == pytest.approx(150, abs=1)
    assert divide_memory(model, slot_bytes, memory_mb, 99) == (10, 0)
    assert divide_memory(model, slot_bytes, memory_mb, 99, 550) == (5, 550)
    assert divide_memory(model, slot_bytes, memory_mb, None, 0) == (10, 0)
    assert divide_memory(model, slot_bytes, 256) == (1, 0)
    assert divide_memory(model, slot_bytes, 2**20)[0] == MAX_SLOTS
    assert divide_memory(model, slot_bytes, None, 9) == (9, CACHE_MB)


def test_slots_that_llama_cpp_cannot_make_are_refused_with_the_way_out() -> None:
    too_many = {"model_path": default_model(), "llm_ctx": 64, "llm_slots": 300, "mem_mb": 2**20}
    settings = WorkerSettings().model_copy(update=too_many)
    with pytest.raises(ModelFileError, match=r"300 x 64 tokens\. Set fewer LLM_SLOTS"):
        load_llama(settings)


def test_threads_never_exceed_the_cores() -> None:
    llama = BatchedLlama(str(default_model()), n_ctx=64, num_slots=1, n_threads=512)
    assert llama.n_threads == available_cores()
    llama.close()


def test_a_full_queue_and_a_closed_engine_refuse() -> None:
    llama = BatchedLlama(str(default_model()), n_ctx=512, num_slots=1, max_waiting=1)
    tokens = prompt(llama, "Once upon a time")
    streams: Any = [llama.create_completion(tokens, max_tokens=400, stream=True) for _ in range(2)]
    with pytest.raises(Overloaded):
        llama.create_completion(tokens)
    llama.close()
    with pytest.raises(WorkerFailed):
        list(streams[1])
    with pytest.raises(WorkerFailed):
        llama.create_completion("Once upon a time")
    with pytest.raises(WorkerFailed):
        ask(llama, "What is fog?", response_format={"type": "json_object"})
    assert not llama.alive


def test_one_slot_without_prefix_reuse_is_the_plain_serial_twin(llama: BatchedLlama) -> None:
    skip_where_rounding_varies(llama)
    plain = BatchedLlama(
        str(default_model()), n_ctx=512, num_slots=1, prefix_cache=False, prompt_lookup=False
    )
    assert [ask(plain, q) for q in QUESTIONS[:2]] == [ask(llama, q) for q in QUESTIONS[:2]]
    assert plain.stats().num_cached_tokens_total == plain.stats().num_draft_tokens_total == 0
    plain.close()


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5, "seed": 3}, {"grammar": "start: /(la ?)+/"}])
def test_drafts_are_taken_and_change_nothing(llama: BatchedLlama, sampling: Any) -> None:
    skip_where_rounding_varies(llama)
    plain = BatchedLlama(str(default_model()), n_ctx=512, num_slots=1, prompt_lookup=False)
    prompt = "One, two, three, four, five. One, two, three, four, five. One, two,"
    options = {"max_tokens": 48, **GREEDY, "logprobs": 1, **sampling}
    before = llama.stats().num_accepted_tokens_total
    answers: list[Any] = []
    for each in (llama, plain):
        if "grammar" in sampling:
            options["grammar"] = each.constraints.compile(sampling["grammar"])
        answers.append(each.create_completion(prompt, **options))
    drafted, expected = (answer["choices"][0] for answer in answers)
    assert llama.stats().num_accepted_tokens_total > before
    assert plain.stats().num_draft_tokens_total == 0
    assert drafted["text"] == expected["text"]
    assert drafted["finish_reason"] == expected["finish_reason"]
    assert drafted["logprobs"]["token_logprobs"] == pytest.approx(
        expected["logprobs"]["token_logprobs"], abs=0.2
    )
    llama.check_integrity()
    plain.close()
