"""The dashboard asks for what /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.asking import CHAT, HELLO
from tests.serving import ScriptedBackend
from tests.waiting import wait_until
from tests.worker.engine.fake_runner import make_engine
from worker.protocol import WorkerStats

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "llama-gateway.json"
FUNCTIONS = {"sum", "max", "rate", "histogram_quantile", "label_values", "by"}
LABEL_LISTS = re.compile(r"\bby \([^)]*\)|\{[^}]*\}|\[[^\]]*\]")


def expressions() -> list[str]:
    dashboard: Any = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def names(expression: str) -> set[str]:
    bare = LABEL_LISTS.sub(" ", expression)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - FUNCTIONS


def test_every_panel_asks_for_a_metric_that_exists(client: httpx.Client, backend: ScriptedBackend) -> None:
    backend.figures = [WorkerStats("w", "test-model", make_engine().stats())]
    client.post(CHAT, json=HELLO)

    def served() -> set[str]:
        """Names of samples, and of families that have none yet."""
        families = list(text_string_to_metric_families(client.get("/metrics").text))
        samples = {sample.name for family in families for sample in family.samples}
        endings = {"histogram": "_bucket", "counter": "_total"}
        return samples | {family.name + endings.get(family.type, "") for family in families}

    wait_until(lambda: "gen_ai_usage_tokens_total" in served())
    asked = [names(expression) for expression in expressions()]
    assert len(asked) > 20
    assert all(asked)
    assert set().union(*asked) - served() == set()
