"""Who may import whom. The folders' knowledge of each other is the design."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODAL_FILES = {"app.py", "gateway/modal_backend.py"}
# The one file where gateway and worker meet in a process of their own, and the commands beside it.
IN_PROCESS_FILES = {"gateway/server.py", "gateway/cli.py"}


def product_files() -> list[str]:
    paths = [ROOT / "app.py", *(ROOT / "gateway").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def imported_modules(file: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def forbidden(file: str, module: str) -> bool:
    package = module.split(".")[0]
    if package == "modal":
        return file not in MODAL_FILES
    if file.startswith("worker/"):
        return package in {"gateway", "fastapi", "starlette", "uvicorn", "app"}
    if package == "llama_cpp":
        return True
    if file.startswith("gateway/") and package == "worker":
        return module != "worker.protocol" and file not in IN_PROCESS_FILES
    return file == "app.py" and package in {"fastapi", "starlette"}


@pytest.mark.parametrize("file", product_files())
def test_imports_follow_the_design(file: str) -> None:
    assert [module for module in imported_modules(file) if forbidden(file, module)] == []


def test_the_protocol_needs_the_standard_library_only() -> None:
    packages = {module.split(".")[0] for module in imported_modules("worker/protocol.py")}
    assert packages <= sys.stdlib_module_names


def test_the_rule_catches_what_it_is_for() -> None:
    assert forbidden("worker/engine.py", "gateway.app")
    assert forbidden("gateway/translate.py", "llama_cpp")
    assert forbidden("gateway/routes/chat.py", "worker.service")
    assert forbidden("gateway/app.py", "modal")
