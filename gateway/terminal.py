"""What the command line says to whoever started it."""

from __future__ import annotations

import contextlib

import typer


def say(text: str, err: bool = False) -> None:
    """To whoever is there to read it: a closed pipe or a full disk is no reason not to serve."""
    with contextlib.suppress(OSError):
        typer.echo(text, err=err)
