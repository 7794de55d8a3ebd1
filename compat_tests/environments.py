"""Environments for tools and clients that pin each other's packages: one each, made once, under .cache."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "environments"


def python_environment(*packages: str) -> Path:
    """The folder of executables of a virtual environment that has `packages` from PyPI."""
    folder = _folder("python", packages)
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _quietly([str(folder / "bin" / "pip"), "install", "--quiet", *packages])
        (folder / "complete").touch()
    return folder / "bin"


def trimmed_environment(package: str, without: Collection[str]) -> Path:
    """The same for one package that asks for more than a test can wait for: it has to do `without` those."""
    folder = _folder("python", (package, *without))
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet"]
        _quietly([*pip, "--no-deps", package])
        told = f"import importlib.metadata as m; print(*m.requires({package!r}), sep='\\n')"
        python = [str(folder / "bin" / "python"), "-c", told]
        asked = subprocess.run(python, capture_output=True, text=True, check=True).stdout.splitlines()
        wanted = [each for each in asked if "extra ==" not in each]
        _quietly([*pip, *(each for each in wanted if re.split(r"[^\w.-]", each)[0] not in without)])
        (folder / "complete").touch()
    return folder / "bin"


def node_environment(*packages: str) -> Path:
    """A folder whose node_modules has `packages` from npm."""
    folder = _folder("node", packages)
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _quietly(["npm", "install", "--silent", "--prefix", str(folder), *packages])
        (folder / "complete").touch()
    return folder


def _folder(kind: str, packages: tuple[str, ...]) -> Path:
    wanted = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    name = packages[0].strip("@").replace("/", "-").partition("[")[0].partition("=")[0]
    return CACHE / f"{kind}-{name}-{wanted}"


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
