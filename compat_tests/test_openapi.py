"""The OpenAPI document and the running thing, held against public checkers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from compat_tests.environments import python_environment
from compat_tests.server import Server, running_server
from tests.serving import ScriptedBackend, serving

HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
LLM_COMPLY = "llm-comply==0.5.0"
SCHEMATHESIS = "schemathesis==4.32.5"


def test_the_document_tells_of_every_error_and_of_streams() -> None:
    with serving(ScriptedBackend()) as url:
        document = httpx.get(f"{url}/openapi.json").json()
    for path in document["paths"].values():
        for operation in path.values():
            assert {"200", "400", "401", "404", "429", "500", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert {"ChatCompletionChunk", "ErrorResponse"} <= references


def fuzzed(url: str, model: str, folder: Path, *, max_examples: int) -> int:
    """How many cases schemathesis sent, none of which may show a failure."""
    command = [
        str(python_environment(SCHEMATHESIS) / "schemathesis"),
        "run",
        f"{url}/openapi.json",
        f"--max-examples={max_examples}",
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--phases=coverage,fuzzing",
        "--continue-on-failure",
        "--no-shrink",
        "--no-color",
        "--request-timeout=100",
        "--seed=1",
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "SERVED_MODEL": model}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert cases
    return int(cases[1])


@pytest.mark.clients
@pytest.mark.timeout(900)
def test_two_thousand_strange_requests_are_answered_as_documented(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    with serving(backend) as url:
        cases = fuzzed(url, "test-model", tmp_path, max_examples=150)
    assert cases >= 2000
    assert len(backend.requests) >= 1000, "too many were refused: little behind the first check was tried"


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_strange_requests_do_not_upset_the_real_worker(tmp_path: Path) -> None:
    with running_server(LLM_CTX="64", LLM_SLOTS="4", GENERATE_MAX_TOKENS="4") as server:
        fuzzed(server.url, server.model(), tmp_path, max_examples=10)
        httpx.get(f"{server.url}/health").raise_for_status()


# By format: those that a model needs eyes for, and those that are only for other makers' reasoning models.
NEEDS_EYES = {
    "openai-chat": "chat-image-input",
    "open-responses": "image-input",
    "anthropic": "anth-image-input",
}
SKIPPED = {
    "openai-chat": "chat-reasoning-summary",
    "open-responses": "reasoning-summary",
    "anthropic": "anth-thinking-display",
}
NUM_CASES = {"openai-chat": 9, "open-responses": 13, "anthropic": 9}


@pytest.mark.parametrize(
    "form",
    [
        "openai-chat",
        pytest.param("open-responses", marks=pytest.mark.clients),
        pytest.param("anthropic", marks=pytest.mark.clients),
    ],
)
@pytest.mark.timeout(600)
def test_llm_comply_passes_all_that_a_text_model_can(form: str) -> None:
    """All cases but two: one needs a model that sees, one is only for others' own reasoning models.

    They sample without a limit, so a small model sometimes talks until the context ends where `stop` is
    expected: one of the cases in every second run. Those that failed are asked again.
    """
    with running_server(LLM_CTX="512", LLM_SLOTS="4") as server:
        results = complied(server, form)
        assert len(results) == NUM_CASES[form]
        assert results.pop(NEEDS_EYES[form]) == "failed"
        assert results.pop(SKIPPED[form]) == "skipped"
        for _ in range(10):
            failed = [name for name, status in results.items() if status != "passed"]
            if not failed:
                return
            results = complied(server, form, failed)
    pytest.fail(f"{failed} never passed")


def complied(server: Server, form: str, cases: Sequence[str] = ()) -> dict[str, Any]:
    """The status of each case, or of those named."""
    with server.client() as client:
        model = client.models.list().data[0].id
    command = [str(python_environment(LLM_COMPLY) / "llm-comply"), "--format", form, "--json"]
    command += ["-u", server.base_url, "-k", "unused", "-m", model, "--timeout", "300"]
    # What the model's file recommends is null, as OpenAI's own types allow; Open Responses' do not.
    command += ["--ignore", "temperature: None,top_p: None"]
    command += ["--filter", ",".join(cases)] if cases else []
    done = subprocess.run(command, capture_output=True, text=True)
    return {result["id"]: result["status"] for result in json.loads(done.stdout)["results"]}
