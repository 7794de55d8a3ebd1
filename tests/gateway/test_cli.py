"""What the command line says of itself."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli import app


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"llama-gateway {__version__}\n"


@pytest.mark.parametrize("described", [r"REPO\s.*USER/NAME", r"FILE\s.*GGUF", r"--folder\s.*Where to put it"])
def test_pull_describes_what_it_takes(described: str) -> None:
    help = CliRunner().invoke(app, ["pull", "--help"]).output
    assert re.search(described, help)


TWO_MODELS = ["--model", "one/same.gguf", "--model", "other/same.gguf"]


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (TWO_MODELS, {}, "2 models would be called same. Rename"),
        (TWO_MODELS, {"MODEL_NAME": "x"}, "MODEL_NAME=x names one model, and 2"),
        ([], {"MODEL": "one/same.gguf:other/same.gguf"}, "2 models would be called same. Rename"),
    ],
)
def test_models_that_would_share_a_name_stop_the_start(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    done = CliRunner().invoke(app, ["serve", *arguments], env=environment)
    assert done.exit_code == 2
    assert says in done.stderr
