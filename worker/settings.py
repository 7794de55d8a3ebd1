"""The worker's settings, by the environment variables that the deployment names."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """Built once at start and handed down; nothing else reads the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False)

    model_path: Path = Field(
        default=Path("/models/models/model_q4_0.gguf"), description="the GGUF file to serve"
    )
    model_name: str | None = Field(
        default=None, description="the id that clients send as `model`; by default the file's stem"
    )
    cpu_cores: float = Field(default=8, gt=0, description="cores reserved for a worker; Modal only")
    mem_mb: int = Field(
        default=16384,
        ge=256,
        description="memory of a worker in MiB, which bounds its slots; `serve`, if this is unset, takes the "
        "model's size and up to a quarter of what is free; several models share it",
    )
    llm_threads: int = Field(
        default=8, ge=1, description="threads; never more than the cores really there; on Modal as CPU_CORES"
    )
    llm_ctx: int = Field(default=8192, ge=64, description="context in tokens for each request")
    llm_n_batch: int = Field(default=256, ge=32, description="most tokens in one llama_decode")
    llm_slots: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="most requests decoded at once, as memory allows; by default 48, on Modal 16",
    )
    llm_max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a slot")
    llm_stall_seconds: float = Field(
        default=15.0, gt=0, description="seconds in one step of the engine after which /ready calls it stuck"
    )
    llm_hang_seconds: float = Field(
        default=120.0, gt=0, description="seconds in one step after which its requests fail and /health does"
    )
    llm_prefix_cache: bool = Field(default=True, description="compute a prefix once, whoever asks for it")
    llm_cache_mb: int | None = Field(
        default=None,
        ge=0,
        description="MiB for conversations without a slot; by default a quarter of MEM_MB beside the model",
    )
    llm_cache_dir: Path | None = Field(
        default=None,
        description="folder for prefixes that several requests began with, across restarts; on Modal "
        "prefixes on the Volume",
    )
    llm_cache_dir_mb: int = Field(
        default=2048, ge=0, description="most MiB of files in LLM_CACHE_DIR; 0 keeps none there"
    )
    llm_prompt_lookup: bool = Field(
        default=True, description="draft from the text so far while one request runs alone"
    )
    llm_recommended_sampling: bool = Field(
        default=True,
        description="what a request leaves out is what the file recommends; otherwise OpenAI's defaults",
    )
    n_gpu_layers: int = Field(
        default=0, ge=-1, description="layers on the GPU; -1 for all, as where GPU is set"
    )
    system_prompt: str = Field(
        default="You are a helpful assistant.",
        description="used by /generate always, and by chat when the client sent no system message",
    )

    chat_template: Path | None = Field(
        default=None, description="a Jinja file that comes before the model's own chat template"
    )

    @property
    def served_name(self) -> str:
        return self.model_name or self.model_path.stem
