"""What /metrics shows, and to whom."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from gateway.settings import GatewaySettings
from tests.gateway.asking import CHAT, HELLO, never_ending
from tests.serving import ScriptedBackend, serving
from tests.waiting import wait_until
from tests.worker.engine.fake_runner import make_engine, make_sequence, run, submit
from worker.protocol import WorkerStats

MODEL = {"gen_ai_request_model": "test-model"}


def value(url: str, name: str, **labels: str) -> float | None:
    """Of the one sample that has these labels."""
    text = httpx.get(f"{url}/metrics").text
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) < 2
    return found[0] if found else None


def test_an_answer_is_counted_once_with_its_tokens() -> None:
    with serving(ScriptedBackend()) as url:
        httpx.post(f"{url}{CHAT}", json={**HELLO, "stream": True})
        httpx.post(f"{url}{CHAT}", json={**HELLO, "model": "another"})
        routes = {"http_route": "/chat/completions", "api_key": "anonymous"}
        assert value(url, "http_server_requests_total", http_response_status_code="200", **routes) == 1
        assert value(url, "http_server_requests_total", http_response_status_code="404", **routes) == 1
        wait_until(lambda: value(url, "gen_ai_usage_tokens_total", gen_ai_token_type="input", **MODEL))
        for kind, number in [("input", 5), ("output", 2), ("cached", 3)]:
            assert value(url, "gen_ai_usage_tokens_total", gen_ai_token_type=kind, **MODEL) == number
        for name in ("request_duration", "time_to_first_token"):
            assert value(url, f"gen_ai_server_{name}_seconds_count", **MODEL) == 1
        assert "another" not in httpx.get(f"{url}/metrics").text  # labels are not for clients to choose


def test_a_client_that_leaves_is_counted_as_that() -> None:
    backend = ScriptedBackend(never_ending)
    with serving(backend) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
            text = response.iter_raw()  # letting go of it would close the stream
            next(text)
            assert value(url, "http_server_active_requests") == 2  # and the one that asks
        assert backend.closed.acquire(timeout=5)
        wait_until(lambda: value(url, "gen_ai_server_abandoned_requests_total", **MODEL) == 1)
        assert value(url, "http_server_active_requests") == 1


def test_workers_figures_are_those_of_their_engines(
    client: httpx.Client, backend: ScriptedBackend, url: str
) -> None:
    engine = make_engine()
    for _ in range(2):
        submit(engine, make_sequence([3, 1, 4, 1, 5], max_tokens=6))
        run(engine)
    submit(engine, make_sequence([9] * 10, max_tokens=6))
    engine.step()
    stats = WorkerStats("w1", "test-model", engine.stats())
    backend.figures = [stats, replace(stats, id="w2")]
    one = {"worker": "w1", **MODEL}
    assert value(url, "llamacpp:requests_processing", **one) == 1
    assert value(url, "llamacpp:prompt_tokens_total", **one) == 5 + 1 + 10
    assert value(url, "llamacpp:tokens_predicted_total", **one) == 6 + 6 + 1
    assert value(url, "gen_ai_server_prefix_tokens_total", tier="slot", **one) == 4
    assert value(url, "llamacpp:kv_cache_usage_ratio", **one) == pytest.approx(10 / (4 * 64))
    steps = value(url, "llamacpp:n_decode_total", **one)
    assert value(url, "gen_ai_server_step_duration_seconds_count", **one) == steps
    assert value(url, "gen_ai_server_step_duration_seconds_bucket", le="+Inf", **one) == steps
    assert value(url, "llamacpp:requests_processing", worker="w2", **MODEL) == 1


def test_figures_need_a_key_unless_a_setting_says_otherwise() -> None:
    keys = SecretStr("secret")
    with serving(ScriptedBackend(), GatewaySettings(api_keys=keys)) as url:
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers={"x-api-key": "secret"}).is_success
    with serving(ScriptedBackend(), GatewaySettings(api_keys=keys, metrics_public=True)) as url:
        assert httpx.get(f"{url}/metrics").is_success
        assert httpx.get(f"{url}/v1/models").status_code == 401
