"""What the command line says of itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_projects() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"llama-gateway {PROJECT['version']}\n"


@pytest.mark.parametrize("described", [r"REPO\s.*USER/NAME", r"FILE\s.*GGUF", r"--folder\s.*Where to put it"])
def test_pull_describes_what_it_takes(described: str) -> None:
    help = CliRunner().invoke(app, ["pull", "--help"]).output
    assert re.search(described, help)
