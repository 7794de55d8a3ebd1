"""Does batching change answers? The 50 questions, greedy, all at once and one by one.

One by one means a slot for one sequence, without prefix reuse: the serial twin. Where an answer differs, the
first token that does is looked at: how far apart the serial model held the two candidates. Sums that are
added in another order differ in their last bits, so only a near-tie may go the other way.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import MAX_TOKENS, asked
from benchmarks.workload import questions as fifty_questions
from worker.llama.batched import BatchedLlama

CONTEXT = 512


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
        together = list(threads.map(lambda question: _answer(batched, question), questions))
    batched.check_integrity()
    batched.close()
    serial = BatchedLlama(str(model), n_ctx=CONTEXT, num_slots=1, prefix_cache=False, prompt_lookup=False)
    alone = [_answer(serial, question) for question in questions]
    serial.close()
    pairs = zip(questions, alone, together, strict=True)
    return len(questions), [
        found for question, one, other in pairs if (found := _first(question, one, other))
    ]


def _answer(llama: BatchedLlama, question: str) -> list[dict[str, Any]]:
    """The answer's tokens with their log probabilities, and those of the candidates beside them."""
    messages: Any = asked(question)
    completion: Any = llama.create_chat_completion(
        messages,
        max_tokens=MAX_TOKENS,
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
