"""The engine without HTTP: output tokens per second, TTFT, inter-token time, and the bare loop's ceiling.

The engine serves closed-loop clients with short questions under one system prompt; each question and answer
is different. The ceiling (benchmarks/ceiling.py) is a bare loop over the same number of tokens: what lies
between the two is the cost of serving.

    python -m benchmarks.engine_bench --model model.gguf --clients 1 16 32 --temperature 1 0

The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from typing import Any

from benchmarks.ceiling import Work, bare_loop
from worker.llama.batched import BatchedLlama
from worker.llama.context import LlamaRunner
from worker.llama.machine import available_cores

SYSTEM = (
    "You are a friendly and knowledgeable assistant for people who watch the sky. Answer in a few clear "
    "sentences, in plain words, and say so when you are not sure."
)
SUBJECTS = (
    "cumulus",
    "cirrus",
    "stratus",
    "nimbus",
    "altocumulus",
    "fog",
    "mist",
    "haze",
    "contrail",
    "storm",
)
PATTERNS = (
    "What is a {} cloud made of?",
    "How high in the sky does {} form, and why there?",
    "Does {} bring rain or snow?",
    "How can I tell {} from other clouds?",
    "Why does {} look the way it does in the evening?",
)
QUESTIONS = [pattern.format(subject) for pattern in PATTERNS for subject in SUBJECTS]


@dataclass(frozen=True, slots=True)
class Result:
    clients: int
    temperature: float
    tokens_per_second: float
    ceiling: float
    ttft_p50: float
    ttft_p95: float
    inter_token_p50: float
    inter_token_p99: float
    computed_per_output: (
        float  # tokens computed, prompts and throw-aways included, for each one that came out
    )


async def client(
    llama: BatchedLlama,
    questions: Iterator[list[int]],
    until: float,
    options: dict[str, Any],
    times: list[list[float]],
) -> None:
    """One question after the other; the times at which each answer's pieces came, the first its start."""
    while time.perf_counter() < until:
        answer = [time.perf_counter()]
        stream: Any = llama.create_completion(next(questions), stream=True, **options)
        async for _ in stream:
            answer.append(time.perf_counter())
        times.append(answer)


def measure(llama: BatchedLlama, clients: int, temperature: float, seconds: float, max_tokens: int) -> Result:
    prompts = [chat_prompt(llama, question) for question in QUESTIONS]
    questions = (prompts[i % len(prompts)] for i in count())
    options = {"max_tokens": max_tokens, "temperature": temperature}
    times: list[list[float]] = []
    before, dummies = llama.stats(), runner_of(llama).num_dummy_tokens

    async def run() -> float:
        started = time.perf_counter()
        tasks = [client(llama, questions, started + seconds, options, times) for _ in range(clients)]
        await asyncio.gather(*tasks)
        return time.perf_counter() - started

    elapsed = asyncio.run(run())
    after = llama.stats()
    output = after.num_output_tokens_total - before.num_output_tokens_total
    prompt = after.num_prompt_tokens_total - before.num_prompt_tokens_total
    cached = after.num_cached_tokens_total - before.num_cached_tokens_total
    finished = len(times)
    work = Work(clients, cached // finished, prompt // finished, output // finished)
    first = [answer[1] - answer[0] for answer in times if len(answer) > 1]
    gaps = [b - a for answer in times for a, b in pairwise(answer[1:])]
    return Result(
        clients=clients,
        temperature=temperature,
        tokens_per_second=output / elapsed,
        ceiling=bare_loop(llama._model, work, available_cores()),
        ttft_p50=statistics.median(first),
        ttft_p95=quantile(first, 0.95),
        inter_token_p50=statistics.median(gaps),
        inter_token_p99=quantile(gaps, 0.99),
        computed_per_output=(output + prompt + runner_of(llama).num_dummy_tokens - dummies) / output,
    )


def chat_prompt(llama: BatchedLlama, question: str) -> list[int]:
    text = f"{system_prefix()}{question}<|im_end|>\n<|im_start|>assistant\n"
    return llama.tokenize(text.encode(), add_bos=False, special=True)


def system_prefix() -> str:
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"


def runner_of(llama: BatchedLlama) -> LlamaRunner:
    runner = llama.engine.runner
    assert isinstance(runner, LlamaRunner)
    return runner


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 0.0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--unified", action="store_true")
    arguments = parser.parse_args()
    llama = BatchedLlama(
        arguments.model,
        n_ctx=arguments.context,
        num_slots=arguments.slots,
        kv_unified=arguments.unified,
    )
    llama.prefill_prefix(llama.tokenize(system_prefix().encode(), add_bos=False, special=True))
    measure(llama, 2, 1.0, 1.0, 8)  # warm-up
    results = []
    print(
        "clients  temp   tok/s  ceiling  share   TTFT p50    p95   inter-token p50    p99   computed/output"
    )
    for clients in arguments.clients:
        for temperature in arguments.temperature:
            r = measure(llama, clients, temperature, arguments.seconds, arguments.max_tokens)
            results.append(asdict(r))
            print(
                f"{r.clients:7} {r.temperature:5} {r.tokens_per_second:7.1f} {r.ceiling:8.1f} "
                f"{r.tokens_per_second / r.ceiling:6.2f} {r.ttft_p50:10.3f} {r.ttft_p95:6.3f} "
                f"{r.inter_token_p50:17.4f} {r.inter_token_p99:6.4f} {r.computed_per_output:17.2f}",
                flush=True,
            )
    llama.check_integrity()
    llama.close()
    print(json.dumps({"benchmark": "engine", "cores": available_cores(), "results": results}))


if __name__ == "__main__":
    main()
