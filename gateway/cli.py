"""llama-gateway: the command line."""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from gateway import __version__
from gateway.access.keys import new_key
from gateway.settings import GatewaySettings, StartError, explain
from gateway.terminal import say
from worker.models import hub
from worker.models.default import default_model
from worker.models.files import FAST_TYPE, ModelFileError
from worker.models.quantize import quantize as convert
from worker.settings import WorkerSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Models = Annotated[
    list[Path] | None,
    typer.Option(
        envvar="MODEL",
        help="GGUF file to serve; again for another.",
        show_default="SmolLM2-135M-Instruct from PyPI",
    ),
]
Host = Annotated[str, typer.Option(envvar="HOST", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(envvar="PORT", min=0, max=65535, help="Port to listen on; 0 for a free one.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llama-gateway {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve a GGUF model behind the OpenAI API."""


@app.command()
def serve(model: Models = None, host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve a model, or several by name, until Ctrl-C.

    The first is loaded at once, the others when they are first asked for.

    Everything else is set by environment variables: LLM_CTX, LLM_THREADS, LLM_SLOTS, API_KEYS,
    SYSTEM_PROMPT and more; docs/settings.md lists them all.
    """
    try:
        gateway_settings, worker_settings = GatewaySettings(), WorkerSettings()
        _refuse_open(host, gateway_settings)
        _serve(_with_models(worker_settings, model or []), gateway_settings, host, port)
    except ValidationError as error:
        _stop(explain(error))
    except (ModelFileError, StartError) as error:
        _stop(str(error))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hub, as USER/NAME.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="GGUF file in it.")],
    folder: Annotated[Path, typer.Option(help="Where to put it.")] = Path("models"),
) -> None:
    """Download FILE of the Hugging Face Hub repository REPO into a folder, checked by size and hash."""
    try:
        path = hub.pull(repo, file, folder)
    except ModelFileError as error:
        _stop(str(error))
    typer.echo(f"{path} is ready: llama-gateway serve --model {path}")


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="GGUF file to convert.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="GGUF file to write.")],
    type: Annotated[str, typer.Option(help="Q4_0, Q8_0, Q4_K_M, F16, …")] = FAST_TYPE,
) -> None:
    """Convert a GGUF file to another type. Q4_0 and Q8_0 have fast CPU kernels."""
    typer.echo(f"Converting {source} to {type}…", err=True)
    try:
        convert(source, target, type, progress=True)
    except ModelFileError as error:
        _stop(str(error))
    typer.echo(f"{target} is ready, {target.stat().st_size >> 20} MiB.")


@app.command()
def key(name: Annotated[str, typer.Argument(metavar="NAME", help="Whom the key is for.")]) -> None:
    """Make a random key: its line for API_KEYS_FILE on stdout, the key itself on stderr, this once."""
    try:
        secret, line = new_key(name)
    except StartError as error:
        _stop(str(error))
    typer.echo(f"The key, which is stored nowhere: {secret}", err=True)
    typer.echo(line)


def _serve(
    worker_settings: Sequence[WorkerSettings], gateway_settings: GatewaySettings, host: str, port: int
) -> None:
    # Imported here, so that --help and wrong settings answer at once.
    from gateway.server import run

    run(worker_settings, gateway_settings, host, port)


def _with_models(settings: WorkerSettings, models: Sequence[Path]) -> list[WorkerSettings]:
    """`--model` wins over MODEL_PATH, which wins over the default model. Each is served by another name."""
    if not models:
        return [_with_default_model(settings)]
    names = Counter(settings.model_name or path.stem for path in models)
    name, number = names.most_common(1)[0]
    if number > 1 and settings.model_name:
        raise StartError(f"MODEL_NAME={name} names one model, and {number} are given. Unset it.")
    if number > 1:
        raise StartError(f"{number} models would be called {name}. Rename all files but one.")
    return [settings.model_copy(update={"model_path": path}) for path in models]


def _with_default_model(settings: WorkerSettings) -> WorkerSettings:
    if "model_path" in settings.model_fields_set:
        return settings
    say("No model given: serving SmolLM2-135M-Instruct. Choose your own with --model FILE.gguf.", err=True)
    path = default_model()
    name = settings.model_name or "SmolLM2-135M-Instruct"
    return settings.model_copy(update={"model_path": path, "model_name": name})


def _refuse_open(host: str, settings: GatewaySettings) -> None:
    if is_loopback(host) or settings.asks_for_keys or settings.allow_anonymous:
        return
    _stop(
        f"Refusing to listen on {host} without API keys: anyone who reaches it could use the model. "
        "Set API_KEYS=YOUR_KEY, or ALLOW_ANONYMOUS=true if that is what you want."
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stop(message: str) -> NoReturn:
    typer.secho(f"llama-gateway: {message}", err=True, fg="red" if sys.stderr.isatty() else None)
    raise typer.Exit(2)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
