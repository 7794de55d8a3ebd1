"""Who may import whom. The rooms' knowledge of each other is the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODAL_FILES = {"app.py", "gateway/backends/modal.py"}
# Where gateway and worker meet in a process of their own, and the commands beside it.
IN_PROCESS_FILES = {"gateway/backends/local.py", "gateway/server.py", "gateway/cli.py"}
# What puts the gateway together: it knows every room, and no room knows it.
ENTRANCES = {"gateway/app.py", "gateway/server.py", "gateway/cli.py"}
# The rooms of the gateway that are no API, and what each may know beside itself and the files above it.
SERVING_ROOMS = {
    "gateway/access": set(),
    "gateway/answers": {"gateway/access", "gateway/ops"},
    "gateway/backends": set(),
    "gateway/ops": {"gateway/access"},
    "gateway": {"gateway/access", "gateway/backends"},
}
# What each room of the worker may know of the others; `worker.protocol` may be known by all.
ROOMS = {
    "worker/engine/": {"worker.engine"},
    "worker/chat/": {"worker.engine", "worker.chat"},
    "worker/llama/": {"worker.engine", "worker.chat", "worker.llama"},
    "worker/models/": {"worker.llama", "worker.models"},
    "worker/protocol.py": set(),
    "worker/settings.py": set(),
}
HTTP_PACKAGES = {"fastapi", "starlette", "uvicorn", "sse_starlette"}


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
    if package == "llama_cpp":
        return file != "worker/llama/library.py"
    if package in HTTP_PACKAGES:
        return not file.startswith("gateway/")
    if file.startswith("worker/"):
        return package in {"gateway", "app"} or (package == "worker" and not _may_enter(file, module))
    if file.startswith("gateway/") and package == "worker":
        return module != "worker.protocol" and file not in IN_PROCESS_FILES
    if file.startswith("gateway/") and package == "gateway":
        return file not in ENTRANCES and not _gateway_may_know(file, module)
    return False


def _gateway_may_know(file: str, module: str) -> bool:
    """Files of the same folder and above it, and of some rooms. So no API knows another, but all of OpenAI's
    know what lies beside them in `openai/`."""
    known, folder = Path(*module.split(".")), Path(file).parent
    rooms = SERVING_ROOMS.get(str(folder), {"gateway/answers"})
    near = known.parent == folder or known.parent in folder.parents or str(known.parent) in rooms
    return near and f"{known}.py" not in ENTRANCES


def _may_enter(file: str, module: str) -> bool:
    known = next((rooms for place, rooms in ROOMS.items() if file.startswith(place)), None)
    room = ".".join(module.split(".")[:2])
    return known is None or room in known | {"worker.protocol"}


@pytest.mark.parametrize("file", product_files())
def test_imports_follow_the_design(file: str) -> None:
    assert [module for module in imported_modules(file) if forbidden(file, module)] == []


def test_the_protocol_needs_the_standard_library_only() -> None:
    packages = {module.split(".")[0] for module in imported_modules("worker/protocol.py")}
    assert packages <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "module", ["worker.protocol", "worker.settings", "worker.chat.prepare", "worker.engine.engine"]
)
def test_nothing_happens_on_import(module: str) -> None:
    """Neither is llama.cpp loaded, nor the environment changed for it."""
    code = f"import os, sys; before = dict(os.environ); import {module}; "
    code += "assert before == dict(os.environ); assert 'llama_cpp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_rule_catches_what_it_is_for() -> None:
    assert forbidden("worker/engine/engine.py", "gateway.app")
    assert forbidden("worker/engine/engine.py", "worker.llama.context")
    assert forbidden("worker/chat/prepare.py", "worker.llama.vocabulary")
    assert forbidden("worker/service.py", "llama_cpp")
    assert forbidden("gateway/openai/chat/reply.py", "llama_cpp")
    assert forbidden("gateway/openai/chat/route.py", "worker.service")
    assert forbidden("gateway/openai/chat/route.py", "gateway.openai.models.reply")
    assert forbidden("gateway/openai/chat/route.py", "gateway.app")
    assert forbidden("gateway/openai/encoder.py", "gateway.openai.chat.reply")
    assert forbidden("gateway/legacy/generate.py", "gateway.openai.sampling")
    assert forbidden("gateway/answers/respond.py", "gateway.openai.encoder")
    assert forbidden("gateway/answers/respond.py", "gateway.backends.local")
    assert forbidden("gateway/app.py", "modal")
