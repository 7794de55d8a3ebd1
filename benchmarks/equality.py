"""Does batching or reuse change answers? Greedy, all at once and one by one: the 50 questions, or 50
conversations that share few slots, lose their states to memory, and go on after a restart from files.

One by one means a slot for one sequence, without prefix reuse: the serial twin. Where an answer differs, the
first token that does is looked at: how far apart the serial model held the two candidates. Sums that are
added in another order differ in their last bits, so only a near-tie may go the other way.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.workload import MAX_TOKENS, asked, endless_questions, system_prompt
from benchmarks.workload import questions as fifty_questions
from worker.llama.batched import BatchedLlama

CONTEXT = 512
CHATS, TURNS, CHAT_TOKENS, CHAT_SYSTEM_TOKENS = 50, 4, 16, 300


@dataclass(frozen=True, slots=True)
class Difference:
    """At token `position` of an answer; `gap` is the difference of the candidates' log probabilities."""

    question: str
    position: int
    serial: str
    batched: str
    gap: float


def compare(model: Path, num_slots: int) -> tuple[int, list[Difference]]:
    """The number of questions, and where their answers differ."""
    questions = fifty_questions()
    batched = BatchedLlama(str(model), n_ctx=CONTEXT, num_slots=num_slots)
    with ThreadPoolExecutor(len(questions)) as threads:
        together = list(threads.map(lambda question: _answer(batched, asked(question)), questions))
    batched.check_integrity()
    batched.close()
    serial = BatchedLlama(str(model), n_ctx=CONTEXT, num_slots=1, prefix_cache=False, prompt_lookup=False)
    alone = [_answer(serial, asked(question)) for question in questions]
    serial.close()
    pairs = zip(questions, alone, together, strict=True)
    return len(questions), [
        found for question, one, other in pairs if (found := _first(question, one, other))
    ]


def compare_chats(model: Path, num_slots: int) -> tuple[int, list[Difference], Counter[str]]:
    """The number of answers, where they differ, and how many tokens came from which tier.

    Turns send what the serial twin answered before, so that a near-tie does not change all that follows.
    """
    prompts = endless_questions()
    chats = [list(islice(prompts, TURNS)) for _ in range(CHATS)]
    serial = BatchedLlama(str(model), n_ctx=1024, num_slots=1, prefix_cache=False, prompt_lookup=False)
    turns = [turn for chat in chats for turn in _talk(serial, chat)]
    serial.close()
    together: list[list[dict[str, Any]]] = []
    reused: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, TURNS + 1):  # a process for each turn, in which the ones before are asked too
            llama = BatchedLlama(
                str(model), n_ctx=1024, num_slots=num_slots, cache_mb=512, cache_dir=Path(folder)
            )
            asking = [messages for turn in range(number) for messages, _ in turns[turn::TURNS]]
            together += _answers_at_once(llama, asking, 2 * num_slots)[-CHATS:]
            llama.check_integrity()
            stats = llama.stats()
            reused["slot"] += stats.num_slot_tokens_total
            reused["memory"] += stats.num_memory_tokens_total
            reused["file"] += stats.num_file_tokens_total
            llama.close()
    alone = [turn for number in range(TURNS) for turn in turns[number::TURNS]]
    found = [
        _first(messages[-1]["content"], one, other)
        for (messages, one), other in zip(alone, together, strict=True)
    ]
    return len(alone), [difference for difference in found if difference], reused


def _answers_at_once(
    llama: BatchedLlama, asking: list[list[dict[str, Any]]], num_clients: int
) -> list[list[dict[str, Any]]]:
    with ThreadPoolExecutor(num_clients) as threads:
        return list(threads.map(lambda messages: _answer(llama, messages, CHAT_TOKENS), asking))


Turn = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _talk(llama: BatchedLlama, questions: list[str]) -> list[Turn]:
    """What was sent in each turn, and the answer's tokens."""
    history = asked("", system_prompt(CHAT_SYSTEM_TOKENS))[:1]
    turns = []
    for question in questions:
        history = [*history, {"role": "user", "content": question}]
        answer = _answer(llama, history, CHAT_TOKENS)
        turns.append((history, answer))
        text = "".join(token["token"] for token in answer)
        history = [*history, {"role": "assistant", "content": text}]
    return turns


def _answer(
    llama: BatchedLlama, messages: list[dict[str, Any]], max_tokens: int = MAX_TOKENS
) -> list[dict[str, Any]]:
    """The answer's tokens with their log probabilities, and those of the candidates beside them."""
    completion: Any = llama.create_chat_completion(
        messages,
        max_tokens=max_tokens,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
    )
    content: list[dict[str, Any]] = completion["choices"][0]["logprobs"]["content"]
    return content


def _first(question: str, alone: list[dict[str, Any]], together: list[dict[str, Any]]) -> Difference | None:
    for position, (one, other) in enumerate(zip(alone, together, strict=False)):
        if one["token"] != other["token"]:
            candidates = {each["token"]: each["logprob"] for each in one["top_logprobs"]}
            gap = one["logprob"] - candidates.get(other["token"], float("-inf"))
            return Difference(question, position, one["token"], other["token"], gap)
    if len(alone) != len(together):
        return Difference(question, min(len(alone), len(together)), "", "", float("inf"))
    return None
