"""app.py, deployed by the real `modal deploy` into the local control plane: what it asks Modal for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from compat_tests.deployment import APP, ROOT
from compat_tests.modal_emulator.emulator import ModalEmulator
from worker.llama.build import pinned_version


@pytest.fixture(scope="module")
def emulator() -> Iterator[ModalEmulator]:
    with ModalEmulator() as emulator:
        emulator.secret("llama-gateway", {"API_KEYS": "the-key"})
        emulator.deploy("app.py")
        yield emulator


def test_the_worker_has_the_resources_that_the_defaults_name(emulator: ModalEmulator) -> None:
    worker = emulator.definition(APP, "LlamaWorker.*")
    assert worker.resources.milli_cpu == 8000
    assert worker.resources.memory_mb == 16384
    assert [mount.mount_path for mount in worker.volume_mounts] == ["/models"]
    assert worker.max_concurrent_inputs == 16
    commands = " ".join(emulator.image_commands(APP, "LlamaWorker.*"))
    assert "build-essential" in commands
    assert "--constraint /constraints.txt" in commands


def test_only_its_own_version_and_flags_compile_llama_cpp_again(emulator: ModalEmulator) -> None:
    """Minutes on Modal: so its layer stands before the constraints, which other packages change."""
    commands = emulator.image_commands(APP, "LlamaWorker.*")
    [compiled] = [
        at for at, command in enumerate(commands) if f"llama-cpp-python=={pinned_version()}" in command
    ]
    constrained = [at for at, command in enumerate(commands) if "constraints.txt" in command]
    assert any("build-essential" in command for command in commands[:compiled])
    assert compiled < min(constrained, default=compiled)
    assert "--no-deps" in commands[compiled]


def test_deploying_needs_modal_and_pydantic_settings_only() -> None:
    """What the README has installed for it: nothing else of the project's dependencies is imported here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = {re.split("[;=]", name)[0].replace("-", "_") for name in project["dependencies"]}
    heavy -= {"pydantic", "pydantic_settings"}
    program = "import sys, app; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert heavy & set(run.stdout.split()) == set()
    assert "pip install modal==1.6.4 pydantic-settings\n" in (ROOT / "README.md").read_text()
    assert "modal==1.6.4" in project["optional-dependencies"]["modal"]


def test_the_gateway_is_light(emulator: ModalEmulator) -> None:
    gateway = emulator.definition(APP, "gateway")
    assert gateway.resources.milli_cpu == 250
    assert gateway.resources.memory_mb == 512
    assert gateway.max_concurrent_inputs == 1000
    assert gateway.target_concurrent_inputs == 64, "another gateway comes before this one's core is full"
    assert gateway.startup_timeout_secs == 120
    assert not gateway.checkpointing_enabled
    assert "llama" not in emulator.image_commands(APP, "gateway")[-1]


def test_modals_own_timeouts_are_longer_than_the_workers(emulator: ModalEmulator) -> None:
    """The worker ends a long answer itself, after 600 s; Modal would end the container's others too."""
    assert emulator.definition(APP, "LlamaWorker.*").timeout_secs > 600
    assert emulator.definition(APP, "gateway").timeout_secs == 24 * 60 * 60


def test_settings_of_the_deployment_reach_the_containers() -> None:
    with ModalEmulator() as emulator:
        settings = {
            "CPU_CORES": "2.5",
            "MEM_MB": "4096",
            "LLM_SLOTS": "3",
            "MODEL_NAME": "mine",
            "ALLOW_ANONYMOUS": "true",
            "MAX_CONTAINERS": "4",
            "SCALEDOWN_WINDOW": "77",
            "GPU": "T4",
            "REGION": "eu-west",
            "GATEWAY_MIN_CONTAINERS": "1",
            "GATEWAY_SNAPSHOT": "true",
        }
        emulator.deploy("app.py", env=settings)
        worker = emulator.definition(APP, "LlamaWorker.*")
        assert (worker.resources.milli_cpu, worker.resources.memory_mb) == (2500, 4096)
        assert worker.max_concurrent_inputs == 3
        assert worker.autoscaler_settings.max_containers == 4
        assert worker.autoscaler_settings.scaledown_window == 77
        assert worker.resources.gpu_config.gpu_type == "T4"
        environment = emulator.environment(APP, "LlamaWorker.*")
        assert environment["N_GPU_LAYERS"] == "-1"
        assert environment["LLM_THREADS"] == "2", "as many as there are whole cores"
        assert list(worker.scheduler_placement.regions) == ["eu-west"]
        gateway = emulator.definition(APP, "gateway")
        assert gateway.autoscaler_settings.min_containers == 1
        assert gateway.checkpointing_enabled
        models = httpx.get(f"{emulator.url(APP, 'gateway')}/v1/models", timeout=60).json()
        assert [model["id"] for model in models["data"]] == ["mine"]


def test_it_is_closed_by_default(emulator: ModalEmulator) -> None:
    url = emulator.url(APP, "gateway")
    assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer the-key"}).is_success


def test_a_worker_without_a_gpu_may_be_told_to_stay(emulator: ModalEmulator) -> None:
    emulator.deploy("app.py", env={"APP_NAME": "staying", "NONPREEMPTIBLE": "true"})
    assert emulator.definition("staying", "LlamaWorker.*").scheduler_placement.nonpreemptible
    with pytest.raises(RuntimeError, match=r"GPU='T4' is not valid: .* unset NONPREEMPTIBLE"):
        emulator.deploy("app.py", env={"GPU": "T4", "NONPREEMPTIBLE": "true"})


def test_a_wrong_table_of_models_stops_the_deployment_with_a_sentence(
    emulator: ModalEmulator, tmp_path: Path
) -> None:
    table = tmp_path / "models.toml"
    table.write_text("[mine]\ncores = 4\n")
    with pytest.raises(RuntimeError, match=r"models\.toml: mine\.cores: Extra inputs") as raised:
        emulator.deploy("app.py", env={"MODELS_FILE": str(table)})
    assert "Traceback" not in str(raised.value)


def test_threads_may_be_fewer_than_the_cores_that_are_paid_for(emulator: ModalEmulator) -> None:
    emulator.deploy("app.py", env={"APP_NAME": "two-threads", "CPU_CORES": "4", "LLM_THREADS": "2"})
    assert emulator.environment("two-threads", "LlamaWorker.*")["LLM_THREADS"] == "2"


@pytest.mark.parametrize("values", [None, {"OTHER": "x"}])
def test_without_keys_it_does_not_deploy(values: dict[str, str] | None) -> None:
    with ModalEmulator() as emulator:
        if values:
            emulator.secret("llama-gateway", values)
        with pytest.raises(RuntimeError, match=r"llama-gateway|API_KEYS"):
            emulator.deploy("app.py")


def test_with_an_empty_key_it_answers_nobody_and_says_why(emulator: ModalEmulator) -> None:
    emulator.secret("no-keys", {"API_KEYS": ""})
    emulator.deploy("app.py", env={"APP_NAME": "closed", "SECRET_NAME": "no-keys"})
    for path in ("/v1/models", "/health"):
        response = httpx.get(emulator.url("closed", "gateway") + path, timeout=60)
        assert response.status_code == 503
        assert "API_KEYS in its Secret no-keys is empty" in response.json()["error"]["message"]
    assert "API_KEYS in its Secret no-keys is empty" in emulator.log()
    assert "Traceback" not in emulator.log()


@pytest.mark.parametrize(
    "wrong",
    [
        {"CPU_CORES": "abc", "LLM_SLOTS": "0"},
        {"ALLOW_ANONYMOUS": "nein"},
        {
            "SCALEDOWN_WINDOW": "1",
            "APP_NAME": "a" * 60,
            "VOLUME_NAME": "bad name!",
            "SECRET_NAME": "bad/name",
        },
    ],
)
def test_wrong_settings_stop_the_deployment_with_a_sentence_for_each(
    emulator: ModalEmulator, wrong: dict[str, str]
) -> None:
    with pytest.raises(RuntimeError) as raised:
        emulator.deploy("app.py", env=wrong)
    output = str(raised.value)
    assert [f"{name}={value!r} is not valid: " in output for name, value in wrong.items()] == [True] * len(
        wrong
    )
    assert "Traceback" not in output


def test_more_workers_kept_warm_than_there_may_be_is_told(emulator: ModalEmulator) -> None:
    with pytest.raises(
        RuntimeError, match="MAX_CONTAINERS=10 is not valid: it is less than MIN_CONTAINERS=11"
    ):
        emulator.deploy("app.py", env={"MIN_CONTAINERS": "11"})
