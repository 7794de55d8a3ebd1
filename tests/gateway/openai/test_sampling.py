"""How the sampler's parameters reach the worker."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import httpx
import pytest

from gateway.openai.chat.request import ChatCompletionRequest
from tests.gateway.asking import CHAT
from tests.gateway.openai.chat.asking import asked
from tests.serving import ScriptedBackend
from worker.protocol import SamplingParams


def test_whatever_the_sampler_takes_can_be_asked_for() -> None:
    names = {field.name for field in fields(SamplingParams)} - {"left_to_model"}
    assert names <= set(ChatCompletionRequest.model_fields)


def test_sampling_reaches_the_worker(client: httpx.Client, backend: ScriptedBackend) -> None:
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repeat_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "mirostat_mode": 2,
        "mirostat_tau": 4,
        "mirostat_eta": 0.2,
        "seed": -5,
    }
    more = {
        "stop": ["a", "b"],
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"7": -100},
        "max_tokens": 9,
    }
    sampling = asked(client, backend, **given, **more, max_completion_tokens=8).sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert (sampling.stop, sampling.logprobs, sampling.logit_bias) == (("a", "b"), 2, {7: -100})
    assert sampling.max_tokens == 8
    assert asked(client, backend, logprobs=True).sampling.logprobs == 0
    assert asked(client, backend).sampling.logprobs is None


def test_parameters_reach_the_worker(client: httpx.Client, backend: ScriptedBackend) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = {
        "model": "test-model",
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],
        "temperature": 0,
        "top_p": None,
        "top_k": 5,
        "seed": 7,
        "stop": "END",
        "max_tokens": 9,
        "max_completion_tokens": 3,
        "logit_bias": {"15": -100},
        "n": 2,
    }
    client.post(CHAT, json=request).raise_for_status()
    sent = backend.requests[0]
    assert sent.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\nb"}]
    assert (sent.sampling.temperature, sent.sampling.top_p, sent.sampling.top_k) == (0, 1, 5)
    assert (sent.sampling.seed, sent.sampling.stop, sent.sampling.max_tokens) == (7, ("END",), 3)
    assert (sent.sampling.logit_bias, sent.n) == ({15: -100}, 2)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"stop": []}, "stop", ()),
        ({"max_tokens": 10.0}, "max_tokens", 10),
        ({"max_tokens": -1}, "max_tokens", None),
        ({"max_completion_tokens": -1, "max_tokens": 5}, "max_tokens", None),
        ({"top_k": -1}, "top_k", 0),
    ],
)
def test_what_other_servers_take_is_taken_in_their_sense(
    client: httpx.Client, backend: ScriptedBackend, given: dict[str, Any], name: str, value: Any
) -> None:
    assert getattr(asked(client, backend, **given).sampling, name) == value
