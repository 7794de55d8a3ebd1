"""The deployment on Modal: `modal deploy app.py`.

    client ── HTTPS ──▶ gateway (a quarter of a core, FastAPI) ── remote call ──▶ LlamaWorker (8 cores)
                                                                                  └─ GGUF on the Volume

Everything is set by environment variables at deploy time; docs/settings.md has the table.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import modal
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.settings import GatewaySettings, explain
from worker.models.files import ModelFileError, models_in
from worker.models.hub import pull
from worker.protocol import (
    RECOMMENDABLE,
    Batch,
    ChatRequest,
    ModelInfo,
    ReasoningDelta,
    Request,
    SamplingParams,
    TextDelta,
    Usage,
    WorkerError,
)
from worker.settings import WorkerSettings

# No `from __future__ import annotations` here: modal.parameter reads the annotations.

MINUTES = 60
LONGEST_TIMEOUT = 24 * 60 * MINUTES  # that Modal allows
# Unless LLM_SLOTS is set. Modal has to be told before any worker has read the model.
SLOTS = 16
MODELS = Path("/models")  # where the Volume is mounted
PREFIXES = MODELS / "prefixes"  # unless LLM_CACHE_DIR is set
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
LLAMA_CPP_PYTHON = "0.3.36"  # as in constraints.txt; what else changes there compiles nothing
LLAMA_BUILD = Path(__file__).parent / "worker" / "llama"  # what of llama.cpp is compiled, and how
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


try:
    deployment, worker_settings, gateway_settings = Deployment(), WorkerSettings(), GatewaySettings()
except ValidationError as error:
    sys.exit(explain(error))
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

app = modal.App(deployment.app_name)
volume = modal.Volume.from_name(deployment.volume_name, create_if_missing=True, version=2)
aborts = modal.Queue.from_name(deployment.app_name + ABORTS_SUFFIX, create_if_missing=True)


def environment(settings: BaseSettings) -> dict[str, str | None]:
    """The settings as they stand at deploy time, for the containers to read again."""
    values = settings.model_dump(mode="json", exclude={"api_keys"}, exclude_none=True)
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
    return (
        base.add_local_file(CONSTRAINTS, "/constraints.txt", copy=True)
        .uv_pip_install(*packages, extra_options="--constraint /constraints.txt")
        .add_local_python_source("gateway", "worker")
    )


hub_environment = environment(deployment) | {
    name: os.environ[name] for name in ("HF_TOKEN", "HF_ENDPOINT") if name in os.environ
}
# Where there is no terminal, the Hub's client shows its progress only if told so.
hub_environment["TQDM_POSITION"] = "-1"

debian = modal.Image.debian_slim(python_version="3.12")
gateway_image = pinned(debian, "fastapi", "orjson", "pydantic-settings", "sse-starlette", "structlog")
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
        from worker.service import Worker, load_llama

        logging.basicConfig(level=logging.INFO)
        settings = for_model(WorkerSettings(), self.model)
        llama = load_llama(settings, way_to_the_volume(settings.model_path))
        self.worker = Worker(llama, settings)
        self.remote = RemoteWorker(
            self.worker,
            aborted=lambda id: aborts.get.aio(partition=id),
            retire=modal.experimental.stop_fetching_inputs.aio,
            seconds=deployment.request_timeout,
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


@app.local_entrypoint()
def main(question: str = "What is the capital of France?", model: str = worker_settings.served_name) -> None:
    """modal run app.py: put one question to the deployed worker, and print its answer and the timings."""
    sampling = SamplingParams(max_tokens=64, left_to_model=frozenset(RECOMMENDABLE))
    messages = [{"role": "user", "content": question}]
    request = ChatRequest(f"smoke-{secrets.token_hex(8)}", model, messages, sampling)
    worker = modal.Cls.from_name(deployment.app_name, "LlamaWorker")(model=model)
    usage, first, started = Usage(0, 0), 0.0, time.perf_counter()
    try:
        for batch in worker.chat.remote_gen(request):
            if batch.error:
                raise batch.error
            for event in batch.events:
                if isinstance(event, TextDelta | ReasoningDelta):
                    first = first or time.perf_counter() - started
                    print(event.text, end="", flush=True)
                elif isinstance(event, Usage):
                    usage = event
    except WorkerError as error:  # of the request, or of a worker that could not start
        sys.exit(str(error))
    except modal.exception.NotFoundError as error:
        sys.exit(f"{deployment.app_name} is not deployed here; run `modal deploy app.py` first. ({error})")
    seconds = time.perf_counter() - started
    speed = max(0, usage.completion_tokens - 1) / (seconds - first)
    print(
        f"\n\nfirst text after {first:.2f} s, all of it after {seconds:.2f} s; "
        f"{usage.completion_tokens} tokens, {speed:.1f} a second after the first"
    )


def for_model(settings: WorkerSettings, name: str) -> WorkerSettings:
    """The settings of the model that clients call `name`: MODEL_PATH's, or another on the Volume."""
    if name == settings.served_name:
        return settings
    path = models_in(MODELS).get(name, MODELS / f"{name}.gguf")
    return settings.model_copy(update={"model_path": path, "model_name": name})


@app.function(
    image=gateway_image,
    cpu=0.25,
    memory=512,
    volumes={str(MODELS): volume},
    env=environment(deployment) | environment(worker_settings) | environment(gateway_settings),
    secrets=[]
    if gateway_settings.allow_anonymous
    else [modal.Secret.from_name(deployment.secret_name, required_keys=["API_KEYS"])],
    # A request also waits for a worker, and one that timed out would take a thousand others with it.
    timeout=LONGEST_TIMEOUT,
)
@modal.concurrent(max_inputs=1000)
@modal.asgi_app()
def gateway() -> object:
    from gateway.app import create_app
    from gateway.backends.modal import ModalBackend
    from gateway.errors import APIError
    from gateway.ops.logs import configure_logging

    # A response that one gateway container kept, another would not find.
    settings = GatewaySettings().model_copy(update={"responses_mb": 0})
    configure_logging(settings.log_level, as_json=True)
    if not settings.key_list and not settings.allow_anonymous:
        # Raised, it would end this container, and clients would see Modal's own error.
        name = deployment.secret_name
        message = (
            f"This server answers nobody, because API_KEYS in its Secret {name} is empty. Set it with "
            f"`modal secret create --force {name} API_KEYS=KEY`, and deploy again."
        )
        logging.getLogger("gateway").error(message)
        return APIError(503, message, type="server_error", code="no_api_keys").response()
    return create_app(ModalBackend(worker_for, aborts, Shelf().models), settings)


def worker_for(name: str) -> LlamaWorker:
    return LlamaWorker(model=name)  # type: ignore[call-arg]  # modal makes __init__ of the parameters


class Shelf:
    """What /v1/models lists: MODEL_PATH first, then what else is on the Volume."""

    def __init__(self) -> None:
        self._reloaded = -float("inf")

    async def models(self) -> list[ModelInfo]:
        """A file that was put on the Volume shows after at most a minute."""
        if time.monotonic() - self._reloaded > MINUTES:
            self._reloaded = time.monotonic()
            await volume.reload.aio()  # type: ignore[no-untyped-call]
        found = {worker_settings.served_name: worker_settings.model_path}
        for name, path in models_in(MODELS).items():
            if path != worker_settings.model_path:
                found.setdefault(name, path)
        return [ModelInfo(name, _modified(path), worker_settings.llm_ctx) for name, path in found.items()]


def _modified(path: Path) -> int:
    return int(path.stat().st_mtime) if path.exists() else 0
