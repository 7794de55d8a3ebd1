"""lm-evaluation-harness asks how likely continuations are, offline, on documents of its own format."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from compat_tests.server import ServerProcess
from compat_tests.snippets import blocks_of
from compat_tests.test_recipes import DEFAULT_URL, SECTIONS, installed
from worker.models.default import default_model

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

DOCUMENTS = [
    {"question": "The capital of France is", "answer": "Paris"},
    {"question": "The capital of France is", "answer": "made of 1234 green bananas"},
    {"question": "Roses are red, violets are", "answer": "blue"},
    {"question": "def add(a, b):\n    return", "answer": "a + b"},
    {"question": "Zwölf Boxkämpfer jagen Viktor quer über den großen", "answer": "Sylter Deich 🙂"},
]
TASK = """\
task: likely
dataset_path: json
dataset_kwargs: {{data_files: {{test: {documents}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: " {{{{answer}}}}"
metric_list: [{{metric: perplexity}}, {{metric: acc}}]
"""


def write_tokenizer(model: Path, folder: Path) -> None:
    """The model file's tokens as Hugging Face's tokenizer.json, which cannot be downloaded here."""
    fields = gguf.GGUFReader(model).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    digits = {"type": "Digits", "individual_digits": True}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_of]},
        "decoder": bytes_of,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"].contents(),
        },
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def harness(server: ServerProcess, folder: Path) -> list[dict[str, Any]]:
    """One sample a document, as the recipe of docs/clients.md gets them, with a task that is on this disk."""
    write_tokenizer(default_model(), folder / "tokenizer")
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folder / "likely.yaml").write_text(TASK.format(documents=documents))
    recipe = SECTIONS["lm-evaluation-harness"].replace(DEFAULT_URL, server.url)
    recipe = recipe.replace("tokenizer=HuggingFaceTB/SmolLM2-135M-Instruct", f"tokenizer={folder}/tokenizer")
    recipe = recipe.replace("lambada_openai", f"likely --include_path {folder} --log_samples -o {folder}/out")
    install, _, command = blocks_of(recipe, "sh")[0].partition("\n")
    variables = os.environ | {
        "PATH": f"{installed(install)}:{os.environ['PATH']}",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(["sh", "-ec", command], env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (folder / "out").rglob("samples_likely_*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


def log_likelihood(
    llama: llama_cpp.Llama, context: Sequence[int], continuation: Sequence[int]
) -> tuple[float, bool]:
    """By llama-cpp-python alone: of all the continuation's tokens, and whether each is the likeliest."""
    llama.reset()  # type: ignore[no-untyped-call]
    llama.eval([*context, *continuation])
    logits = np.array(llama.scores[len(context) - 1 : len(context) + len(continuation) - 1], np.float64)
    peak = logits.max(axis=1)
    normalizer = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    likelihood = (logits[np.arange(len(continuation)), continuation] - normalizer).sum()
    return float(likelihood), bool((logits.argmax(axis=1) == continuation).all())


def test_the_harness_agrees_with_a_direct_computation(server_process: ServerProcess, tmp_path: Path) -> None:
    samples = harness(server_process, tmp_path)
    assert len(samples) == len(DOCUMENTS)
    llama = llama_cpp.Llama(str(default_model()), n_ctx=256, flash_attn=True, logits_all=True, verbose=False)
    for sample in samples:
        question, answer = sample["doc"]["question"], sample["doc"]["answer"]
        context = llama.tokenize(question.encode(), add_bos=False)
        continuation = llama.tokenize(f"{question} {answer}".encode(), add_bos=False)[len(context) :]
        likelihood, is_greedy = log_likelihood(llama, context, continuation)
        (((found, found_greedy),),) = sample["resps"]
        assert float(found) == pytest.approx(likelihood, abs=0.05)
        assert str(found_greedy) == str(is_greedy)
    llama.close()
