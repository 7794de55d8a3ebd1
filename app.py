"""The deployment on Modal: `modal deploy app.py`.

    client ── HTTPS ──▶ gateway (a quarter of a core, FastAPI) ── remote call ──▶ LlamaWorker (8 cores)
                                                                                  └─ GGUF on the Volume

Everything is set by environment variables at deploy time; docs/settings.md has the table.
"""

import importlib
import logging
import os
import secrets
import sys
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import modal
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.settings import GatewaySettings, StartError, explain
from worker import smoke
from worker.catalog import Catalog, Overrides, Served, Shelf, read_table
from worker.models.files import ModelFileError, models_in
from worker.models.hub import pull
from worker.protocol import Batch, ChatRequest, Request, SamplingParams, WorkerError
from worker.settings import WorkerSettings

# No `from __future__ import annotations` here: modal.parameter reads the annotations.

MINUTES = 60
LONGEST_TIMEOUT = 24 * 60 * MINUTES  # that Modal allows
SLOTS = 16  # of a worker, unless LLM_SLOTS is set or memory holds fewer
MODELS = Path("/models")  # where the Volume is mounted
FILES = Path("/files")
PREFIXES = MODELS / "prefixes"  # unless LLM_CACHE_DIR is set
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
LLAMA_CPP_PYTHON = "0.3.36"  # as in constraints.txt; what else changes there compiles nothing
LLAMA_BUILD = Path(__file__).parent / "worker" / "llama"  # what of llama.cpp is compiled, and how
CHAT_PAGE = Path(__file__).parent / "gateway" / "chat_page" / "static"  # no Python, so not with its source
FILES_SUFFIX = "-files"  # of the app's name: the Volume with what clients keep for batches
ABORTS_SUFFIX = "-aborts"  # of the app's name: the Queue that tells workers which clients have left
OBJECT_NAME = r"^[a-zA-Z0-9._-]+$"  # of at most 64 characters: what Modal accepts


class Deployment(BaseSettings):
    """How Modal runs the app; WorkerSettings and GatewaySettings say what runs inside."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    app_name: str = Field(
        default="link-cloud-llamacpp",
        pattern=OBJECT_NAME,
        max_length=64 - len(ABORTS_SUFFIX),
        description="the Modal app's name",
    )
    volume_name: str = Field(
        default="gguf-models",
        pattern=OBJECT_NAME,
        max_length=64,
        description="the Volume with the GGUF files",
    )
    secret_name: str = Field(
        default="llama-gateway",
        pattern=OBJECT_NAME,
        max_length=64,
        description="the Secret whose API_KEYS clients must send",
    )
    models_file: Path = Field(
        default=Path("models.toml"), description="a TOML file with what single models have for themselves"
    )
    min_containers: int = Field(
        default=0, ge=0, description="workers kept warm for each model that has been asked for"
    )
    max_containers: int = Field(
        default=10, ge=1, validate_default=True, description="most workers at once for each model"
    )
    buffer_containers: int = Field(
        default=0, ge=0, description="idle workers kept ready for each model under load"
    )
    scaledown_window: int = Field(
        default=5 * MINUTES, ge=2, le=3600, description="seconds a worker idles before it stops"
    )
    region: str | None = Field(default=None, description="where workers run, such as eu-west; costs more")
    nonpreemptible: bool = Field(default=False, description="workers that Modal never moves; costs more")
    gateway_snapshot: bool = Field(
        default=False, description="start gateways from a memory snapshot that has their imports"
    )
    gateway_min_containers: int = Field(
        default=0, ge=0, description="gateways kept awake; otherwise the first request after a minute waits"
    )
    gpu: str | None = Field(default=None, description="a GPU for the worker, such as T4; all layers go there")
    request_timeout: int = Field(
        default=10 * MINUTES,
        ge=1,
        le=23 * 60 * MINUTES,
        description="seconds one answer may take once a worker has it; then it ends with an error",
    )

    @field_validator("max_containers")
    @classmethod
    def not_below_the_minimum(cls, value: int, info: ValidationInfo) -> int:
        minimum = info.data.get("min_containers", 0)
        if value < minimum:
            raise PydanticCustomError("below_minimum", f"it is less than MIN_CONTAINERS={minimum}")
        return value

    @field_validator("gpu")
    @classmethod
    def can_be_moved(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("nonpreemptible"):
            raise PydanticCustomError(
                "preemptible", "Modal moves every worker with a GPU: unset NONPREEMPTIBLE"
            )
        return value

    @property
    def price_factor(self) -> float:
        """What Modal multiplies its prices by: a broad region 1.5, a narrow one 1.75; not to be moved 3."""
        region = 1.0 if self.region is None else 1.75 if "-" in self.region else 1.5
        return region * (3 if self.nonpreemptible else 1)


try:
    deployment, worker_settings, gateway_settings = Deployment(), WorkerSettings(), GatewaySettings()
    # In a container the table lies where this file does.
    models_file = deployment.models_file if modal.is_local() else Path(__file__).with_name("models.toml")
    table = read_table(models_file, gpu=deployment.gpu)
except ValidationError as error:
    sys.exit(explain(error))
except ModelFileError as error:
    sys.exit(str(error))
worker_settings = worker_settings.model_copy(
    update={
        "llm_slots": worker_settings.llm_slots or SLOTS,
        "llm_cache_dir": worker_settings.llm_cache_dir or PREFIXES,
        # A container may run on all of its machine's cores, of which only the reserved ones are its own.
        "llm_threads": worker_settings.llm_threads
        if "llm_threads" in worker_settings.model_fields_set
        else max(1, int(worker_settings.cpu_cores)),
        # Nobody pays for a GPU to leave it idle.
        "n_gpu_layers": worker_settings.n_gpu_layers or (-1 if deployment.gpu else 0),
    }
)

catalog = Catalog(
    MODELS, worker_settings, table, deployment.max_containers, on_gpu=deployment.gpu is not None
)

app = modal.App(deployment.app_name)
volume = modal.Volume.from_name(deployment.volume_name, create_if_missing=True, version=2)
files = modal.Volume.from_name(deployment.app_name + FILES_SUFFIX, create_if_missing=True, version=2)
aborts = modal.Queue.from_name(deployment.app_name + ABORTS_SUFFIX, create_if_missing=True)


def environment(settings: BaseSettings) -> dict[str, str | None]:
    """The settings as they stand at deploy time, for the containers to read again."""
    values = settings.model_dump(
        mode="json", exclude={"api_keys", "rate_limit_redis", "models_file"}, exclude_none=True
    )
    return {name.upper(): str(value) for name, value in values.items()}


def compiled(base: modal.Image, cmake_args: str) -> modal.Image:
    """`base` with llama-cpp-python, in a layer that only its version or its flags compile again."""
    for name in ("llama_cpp.cmake", "lazy_clear.h"):
        base = base.add_local_file(LLAMA_BUILD / name, f"/llama_cpp/{name}", copy=True)
    include = "-DCMAKE_PROJECT_llama_cpp_INCLUDE=/llama_cpp/llama_cpp.cmake"
    return base.uv_pip_install(
        f"llama-cpp-python=={LLAMA_CPP_PYTHON}",
        extra_options="--no-deps",
        env={"CMAKE_ARGS": f"{include} {cmake_args}"},
    )


def pinned(base: modal.Image, *packages: str) -> modal.Image:
    """`base` with `packages` at the versions of constraints.txt, and this project's two packages."""
    image = (
        base.add_local_file(CONSTRAINTS, "/constraints.txt", copy=True)
        .uv_pip_install(*packages, extra_options="--constraint /constraints.txt")
        .add_local_python_source("gateway", "worker")
    )
    return image.add_local_file(models_file, "/root/models.toml") if models_file.is_file() else image


hub_environment = environment(deployment) | {
    name: os.environ[name] for name in ("HF_TOKEN", "HF_ENDPOINT") if name in os.environ
}
# Where there is no terminal, the Hub's client shows its progress only if told so.
hub_environment["TQDM_POSITION"] = "-1"

debian = modal.Image.debian_slim(python_version="3.12")
gateway_image = pinned(
    *(debian, "fastapi", "limits", "orjson", "prometheus-client", "pydantic-settings", "python-multipart"),
    *("sse-starlette", "structlog"),
    # Its URL comes from the Secret, as it may hold a password; the shell only says that there is one.
    *(["redis"] if gateway_settings.rate_limit_redis.get_secret_value() else []),
    *(["opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"] if gateway_settings.tracing else []),
).add_local_dir(CHAT_PAGE, f"/root/{CHAT_PAGE.relative_to(Path(__file__).parent)}")
hub_image = pinned(debian, "huggingface-hub", "pydantic-settings")
if deployment.gpu is None:
    # Built on one machine, run on another: every CPU variant, the best of which is chosen at load.
    llama = compiled(
        debian.apt_install("build-essential"),
        "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON",
    )
else:
    cuda = modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu24.04", add_python="3.12")
    llama = compiled(cuda, "-DGGML_CUDA=ON -DGGML_NATIVE=OFF")
worker_image = pinned(llama, "llama-cpp-python", "llguidance", "pydantic-settings")


@app.cls(
    image=worker_image,
    cpu=worker_settings.cpu_cores,
    memory=worker_settings.mem_mb,
    volumes={str(MODELS): volume},
    env=environment(deployment) | environment(worker_settings),
    min_containers=deployment.min_containers,
    max_containers=deployment.max_containers,
    buffer_containers=deployment.buffer_containers,
    scaledown_window=deployment.scaledown_window,
    region=deployment.region,
    nonpreemptible=deployment.nonpreemptible,
    gpu=deployment.gpu,
    # The worker ends an answer itself. Modal's own way costs the container, with all its other answers.
    timeout=deployment.request_timeout + 2 * MINUTES,
    startup_timeout=10 * MINUTES,
)
@modal.concurrent(max_inputs=worker_settings.llm_slots)
class LlamaWorker:
    """One model in memory, answering as many requests at once as it has slots.

    `model` is a name that /v1/models lists: each has containers of its own.
    """

    model: str = modal.parameter()

    @modal.enter()
    def load(self) -> None:
        from worker.modal_side import RemoteWorker
        from worker.service import load_worker

        logging.basicConfig(level=logging.INFO)
        settings = catalog.settings_of(self.model)
        self.worker = load_worker(settings, way_to_the_volume(settings.model_path))
        self.remote = RemoteWorker(
            self.worker,
            aborted=lambda id: aborts.get.aio(partition=id),
            retire=modal.experimental.stop_fetching_inputs.aio,
            seconds=deployment.request_timeout,
            id=os.environ.get("MODAL_TASK_ID", "modal"),  # as `modal container list` shows it
        )
        # Where memory holds fewer slots than were asked for, the rest is left to other workers.
        modal.experimental.set_local_input_concurrency(self.worker.num_slots)

    @modal.method()
    async def chat(self, request: Request) -> AsyncGenerator[Batch]:
        async for batch in self.remote.chat(request):
            yield batch

    @modal.exit()
    def close(self) -> None:
        self.worker.close()


def way_to_the_volume(path: Path) -> str:
    """How a file gets to `path`, with the name of this deployment's Volume."""
    name, place = deployment.volume_name, str(path).removeprefix(f"{MODELS}/")
    return (
        f"The Volume {name} is mounted at {MODELS}. Put a file there with "
        f"`modal volume put {name} FILE.gguf {place}`, or one from the Hugging Face Hub with "
        f"`VOLUME_NAME={name} modal run app.py::pull_model --repo REPO --file FILE.gguf`."
    )


@app.function(
    image=hub_image,
    volumes={str(MODELS): volume},
    env=hub_environment,
    timeout=60 * MINUTES,
)
def pull_model(repo: str, file: str) -> None:
    """modal run app.py::pull_model --repo REPO --file FILE.gguf: from the Hugging Face Hub to the Volume."""
    try:
        path = pull(repo, file, MODELS)
    except ModelFileError as error:
        # Modal shows the traceback of whatever is raised here, and of its causes; the sentence comes last.
        raise SystemExit(str(error)) from None
    volume.commit()
    print(f"{path} is on the Volume {deployment.volume_name}, {path.stat().st_size >> 20} MiB, checked.")
    print(f"Clients call it {path.stem!r}; make it the default with MODEL_PATH={path} modal deploy app.py")


@app.function(
    image=hub_image,
    volumes={str(MODELS): volume},
    env=environment(deployment) | environment(worker_settings),
)
def list_models() -> None:
    """modal run app.py::list_models: what is on the Volume, by the name that clients send."""
    models = models_in(MODELS)
    if not models:
        print(f"There is no GGUF file yet. {way_to_the_volume(worker_settings.model_path)}")
    for name, path in models.items():
        print(f"{name:40} {path.stat().st_size >> 20:8} MiB  {path}")


@app.function(
    image=gateway_image,
    volumes={str(MODELS): volume},
    env=environment(deployment) | environment(worker_settings),
)
def look_up(model: str) -> Served | None:
    """The size of the model's worker, as the gateway sees it."""
    return catalog.scan().get(model)


@app.local_entrypoint()
def main(question: str = "What is the capital of France?", model: str = worker_settings.served_name) -> None:
    """modal run app.py: put one question to the deployed worker, and print its answer, timings and price."""
    messages = [{"role": "user", "content": question}]
    greedy = SamplingParams(max_tokens=64, temperature=0.0)
    request = ChatRequest(f"smoke-{secrets.token_hex(8)}", model, messages, greedy)
    workers = modal.Cls.from_name(deployment.app_name, "LlamaWorker")
    try:
        served = modal.Function.from_name(deployment.app_name, "look_up").remote(model)
        batches = worker_for(model, served, workers).chat.remote_gen(request)
        timings = smoke.ask(batches, lambda text: print(text, end="", flush=True))
    except WorkerError as error:  # of the request, or of a worker that could not start
        sys.exit(str(error))
    except modal.exception.NotFoundError as error:
        sys.exit(f"{deployment.app_name} is not deployed here; run `modal deploy app.py` first. ({error})")
    settings = table.get(model, Overrides()).of(worker_settings)
    print("\n", *smoke.report(timings, settings, deployment.price_factor, deployment.gpu), sep="\n")


gateway_resources: dict[str, Any] = {
    "image": gateway_image,
    "cpu": 0.25,
    "memory": 512,
    "volumes": {str(MODELS): volume, str(FILES): files},
    "env": environment(deployment)
    | environment(worker_settings)
    | environment(gateway_settings)
    | {"PRELOAD": "gateway.app gateway.backends.modal gateway.ops.logs"},
    "enable_memory_snapshot": deployment.gateway_snapshot,
    "startup_timeout": 2 * MINUTES,  # Modal's default is a day
}


@app.function(
    **gateway_resources,
    secrets=[]
    if gateway_settings.allow_anonymous
    else [modal.Secret.from_name(deployment.secret_name, required_keys=["API_KEYS"])],
    # A request also waits for a worker, and one that timed out would take a thousand others with it.
    timeout=LONGEST_TIMEOUT,
    min_containers=deployment.gateway_min_containers,
)
# A busy stream takes a few milliseconds of CPU a second, of a quarter of a core.
@modal.concurrent(max_inputs=1000, target_inputs=64)
@modal.asgi_app()
def gateway() -> object:
    from gateway.errors import APIError
    from gateway.ops.logs import configure_logging

    settings = GatewaySettings()
    configure_logging(settings.log_level, as_json=True)
    try:
        if not settings.asks_for_keys and not settings.allow_anonymous:
            name = deployment.secret_name
            raise StartError(
                f"This server answers nobody, because API_KEYS in its Secret {name} is empty. Set it with "
                f"`modal secret create --force {name} API_KEYS=KEY`, and deploy again."
            )
        return http_app(settings, Shelf(catalog, volume.reload.aio))
    except StartError as error:
        # Raised, it would end this container, and clients would see Modal's own error.
        logging.getLogger("gateway").error(str(error))
        return APIError(503, str(error), type="server_error", code="no_api_keys").response()


@app.function(**gateway_resources, timeout=LONGEST_TIMEOUT, retries=3)
async def run_batch(owner: str, batch_id: str) -> None:
    """One of /v1/batches: its requests spread over the workers. Should this end, Modal calls it again."""
    from gateway.app import answering_batches
    from gateway.ops.logs import configure_logging

    settings, shelf = GatewaySettings(), Shelf(catalog, volume.reload.aio)
    configure_logging(settings.log_level, as_json=True)
    await shelf.models()
    run = answering_batches(http_app(settings, shelf), shelf.most_running())
    cancelled = partial(aborts.get.aio, partition=batch_id)
    await run(owner, batch_id, cancelled=cancelled, saved=files.commit.aio)


def http_app(settings: GatewaySettings, shelf: Shelf) -> Any:
    from gateway.app import create_app
    from gateway.backends.modal import ModalBackend, ModalBatches

    backend = ModalBackend(
        lambda name: worker_for(name, shelf.served(name)), aborts, shelf.models, shelf.most_under_way
    )
    # A response that one gateway container kept, another would not find; files lie on a Volume.
    settings = settings.model_copy(update={"responses_mb": 0, "files_dir": FILES})
    batches = ModalBatches(run_batch.spawn.aio, aborts, files)
    return create_app(backend, settings, batches_elsewhere=batches)


def worker_for(name: str, served: Served | None, workers: Any = LlamaWorker) -> Any:
    """The worker of the model's own size. Modal scales out by `max_inputs`, so it has to be what fits."""
    if served is None:
        return workers(model=name)
    sized = workers.with_options(**served.options) if served.options else workers
    return sized.with_concurrency(max_inputs=served.slots)(model=name)


# In the gateway's containers, here and not in the function: a snapshot has what was imported before it.
for module in os.environ.get("PRELOAD", "").split():
    importlib.import_module(module)
