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
