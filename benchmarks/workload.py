"""What the servers are asked: the 50 questions, the system prompt, ways of sampling, and requests of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.client import chat_request

QUESTIONS_FILE = Path(__file__).with_name("50-questions.jsonl")
MAX_TOKENS = 64
SYSTEM_PROMPT = (
    "You are the assistant of a cloud consultancy. Answer in the language of the question, in clear "
    "paragraphs, for an engineer who has to decide today. Name the trade-offs, give one concrete example, "
    "and say what you would measure before and after. Do not invent prices or product names."
)
TOKENS_PER_WORD = 2.2  # of the questions' mixture of Turkish and English, with the default model
# `openai` is what an OpenAI client gets by default; servers add defaults of their own to it (llama.cpp's
# two: top_k 40 and min_p 0.05), which makes their sampling cheaper. `full` switches those off.
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "openai": {"temperature": 1, "top_p": 1},
    "full": {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0},
}

Message = dict[str, Any]


def questions() -> list[str]:
    """The 50, half Turkish and half English, all different."""
    return [json.loads(line)["question"] for line in QUESTIONS_FILE.read_text().splitlines()]


def endless_questions(label: str = "Question") -> Iterator[str]:
    """No two are equal: the first 50 as written, later rounds and other labels with a number before them."""
    for number, question in zip(count(), cycle(fifty := questions())):
        numbered = number >= len(fifty) or label != "Question"
        yield f"{label} {number}: {question}" if numbered else question


def long_text(num_tokens: int) -> str:
    """About `num_tokens` of text: the questions, over and over."""
    words = " ".join(questions()).split()
    return " ".join(islice(cycle(words), int(num_tokens / TOKENS_PER_WORD)))


def system_prompt(num_tokens: int = 0) -> str:
    """The assistant's 60 tokens, and below them background of about `num_tokens`."""
    return f"{SYSTEM_PROMPT}\n\nBackground: {long_text(num_tokens)}" if num_tokens else SYSTEM_PROMPT


def asked(text: str, system: str = SYSTEM_PROMPT) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


@dataclass(frozen=True, slots=True)
class Workload:
    """How every request of a run is answered: the sampling, and how long the answers may be."""

    sampling: str = "greedy"
    max_tokens: int = MAX_TOKENS

    def request(self, model: str, messages: list[Message], **more: Any) -> bytes:
        """A chat completion that streams and ends with its usage."""
        return chat_request(
            {
                "model": model,
                "messages": messages,
                "max_tokens": self.max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
                **SAMPLING[self.sampling],
                **more,
            }
        )

    def requests(self, model: str, label: str = "Question", more: str = "") -> Iterator[bytes]:
        """Endless single questions, each with `more`, under the system prompt; they differ right after it."""
        return (
            self.request(model, asked(f"{question}\n\n{more}".rstrip()))
            for question in endless_questions(label)
        )
