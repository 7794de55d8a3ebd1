"""`python -m docs.settings`: docs/settings.md, from the settings classes and the options of `serve`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from app import Deployment
from gateway.cli import serve
from gateway.settings import GatewaySettings
from worker.settings import WorkerSettings

PAGE = Path(__file__).with_name("settings.md")
HEADING = """\
# Settings

All are environment variables; an empty one counts as unset. A wrong value stops the start, or the deployment,
with a sentence that names the variable. `modal deploy app.py` reads them from your shell, but for `API_KEYS`,
which comes from the Secret.

This page is written by `make docs`, from the classes that read the variables. Change it there.
"""
HEADER = "| variable | default | may be | meaning |\n| --- | --- | --- | --- |"
LIMITS = ("ge", "le", "gt")
CLASSES: dict[str, type[BaseSettings]] = {
    "The model and its engine": WorkerSettings,
    "HTTP": GatewaySettings,
    "Modal": Deployment,
}


def page() -> str:
    sections = [("`llama-gateway serve` only", serve_rows())]
    sections += [(title, class_rows(settings)) for title, settings in CLASSES.items()]
    return HEADING + "".join(
        f"\n## {title}\n\n{HEADER}\n" + "\n".join(rows) + "\n" for title, rows in sections
    )


def serve_rows() -> Iterator[str]:
    """The options of `serve`, which an environment variable sets too."""
    hints = get_type_hints(serve, include_extras=True)
    for name, parameter in inspect.signature(serve).parameters.items():
        option = hints[name].__metadata__[0]
        default = option.show_default if parameter.default is None else f"`{parameter.default}`"
        meaning = f"{option.help.rstrip('.')}; or `--{name}`"
        yield row(option.envvar, default, _bounds(option.min, option.max), meaning)


def class_rows(settings: type[BaseSettings]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        meaning = field.description or ""
        yield row(name.upper(), _default(field.default), _allowed(field), meaning[:1].upper() + meaning[1:])


def row(*cells: str) -> str:
    variable, *others = cells
    return " | ".join([f"| `{variable}`", *others]) + " |"


def _default(value: object) -> str:
    """As the variable would be set; nothing where it is unset."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    return "" if value in (None, "") else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.annotation))
    limits = {name: getattr(rule, name) for rule in field.metadata for name in LIMITS if hasattr(rule, name)}
    return _bounds(limits.get("ge"), limits.get("le"), limits.get("gt"))


def _bounds(least: float | None, most: float | None, above: float | None = None) -> str:
    if above is not None:
        return f"more than {above}"
    if least is not None and most is not None:
        return f"{least} to {most}"
    return "" if least is None else f"{least} or more"


if __name__ == "__main__":
    PAGE.write_text(page())
