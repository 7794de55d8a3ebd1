"""What the README and docs/ tell a reader to run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from compat_tests.deployment import ROOT

README = ROOT / "README.md"
CLIENTS = ROOT / "docs" / "clients.md"  # whose snippets run where the clients are installed
PAGES = [README, *sorted(page for page in (ROOT / "docs").glob("*.md") if page != CLIENTS)]


def blocks(page: Path, language: str) -> list[str]:
    return blocks_of(page.read_text(), language)


def blocks_of(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def deployment(page: Path) -> str:
    """The block that deploys on Modal from nothing."""
    (block,) = [block for block in blocks(page, "sh") if "modal setup" in block]
    return block


def deployment_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of its `modal` commands up to `modal deploy`, but for the one that needs an account."""
    for line in deployment(page).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "modal" and arguments[0] not in ("setup", "run"):
            yield arguments
