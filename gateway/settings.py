"""The gateway's settings, and the sentence that a wrong environment variable is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)]


class GatewaySettings(BaseSettings):
    """Built once at start and handed down; nothing else reads the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False)

    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="keys that clients may send as bearer token, separated by commas: `KEY`, `NAME:KEY` or "
        "`NAME:sha256:HEX`",
    )
    api_keys_file: Path | None = Field(
        default=None, description="a file of more keys, one `NAME:…` a line; read again when it changes"
    )
    allow_anonymous: bool = Field(
        default=False, description="serve without keys on addresses other than loopback"
    )
    allowed_hosts: str = Field(
        default="",
        description="names besides localhost under which a server without keys may be called, separated by "
        "commas",
    )
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="largest request body")
    rate_limit_requests: int = Field(
        default=6000, ge=0, description="requests a minute for each key that names no other; 0 for no limit"
    )
    rate_limit_tokens: int = Field(
        default=2_000_000,
        ge=0,
        description="tokens a minute, of prompts and answers, for each key that names no other; 0 for no "
        "limit",
    )
    rate_limit_concurrent: int = Field(
        default=200,
        ge=0,
        description="requests under way at once for each key that names no other, in each gateway; 0 for no "
        "limit",
    )
    rate_limit_redis: SecretStr = Field(
        default=SecretStr(""),
        description="redis://… where several gateways count requests and tokens together; by default each "
        "counts its own",
    )
    heartbeat_seconds: float = Field(
        default=10.0, gt=0, description="seconds between the comments that keep a stream open"
    )
    first_event_seconds: float = Field(
        default=20.0, gt=0, description="how long a stream's errors may still be answered by a status code"
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="how long `serve` keeps an idle connection open; more than a proxy's 60 s",
    )
    shutdown_grace_seconds: float = Field(
        default=10.0, ge=0, description="how long running answers may go on after the server is told to stop"
    )
    cors_origins: str = Field(
        default="", description="browser origins that may call the API, separated by commas; * for all"
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[^/]+)*$",
        description="path under which a proxy shows `serve`, and which it strips, such as /llm",
    )
    chat_page: bool = Field(default=True, description="show a page to chat at /")
    generate_max_tokens: int = Field(
        default=1024, ge=1, description="tokens after which an answer of POST /generate ends"
    )
    responses_db: str = Field(
        default=":memory:",
        description="SQLite file in which responses are kept for `previous_response_id`, or `:memory:`",
    )
    responses_mb: int = Field(
        default=64, ge=0, description="how much of them is kept; 0 keeps none. On Modal none are kept"
    )
    responses_seconds: float = Field(
        default=24 * 3600, gt=0, description="how long a response is kept that nobody continues"
    )
    files_dir: Path | None = Field(
        default=None,
        description="folder for the files of `/v1/files` and for batches, which go on there after a restart; "
        "by default a temporary one, gone with the server",
    )
    file_mb: int = Field(default=100, ge=1, description="MiB that one of these files may have")
    files_mb: int = Field(default=1024, ge=1, description="MiB of these files that are kept for each key")
    files_seconds: float = Field(default=30 * 24 * 3600, gt=0, description="how long such a file is kept")
    log_level: LogLevel = Field(default="info", description="the least severe log lines to write")
    log_json: bool = Field(default=False, description="log lines as JSON")
    log_prompts: bool = Field(default=False, description="log what models are asked, with all its text")
    tracing: bool = Field(
        default=False,
        description="send spans to the OpenTelemetry collector of OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    metrics_public: bool = Field(default=False, description="answer /metrics without a key")

    @property
    def key_list(self) -> list[str]:
        return split_list(self.api_keys.get_secret_value())

    @property
    def asks_for_keys(self) -> bool:
        return bool(self.key_list) or self.api_keys_file is not None


class StartError(Exception):
    """Why the server does not start; the message is the sentence that the user sees."""


def split_list(text: str) -> list[str]:
    """The non-empty parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def explain(error: ValidationError) -> str:
    """One line for each wrong setting, naming the environment variable as it is set."""
    return "\n".join(
        f"{'_'.join(str(part) for part in detail['loc']).upper()}={detail['input']!r} is not valid: "
        f"{detail['msg']}. Set it to a valid value or unset it."
        for detail in error.errors(include_url=False)
    )
