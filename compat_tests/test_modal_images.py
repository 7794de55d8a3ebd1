"""The images on Modal are recorded here, not built: whether they have what runs is told by its imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compat_tests.deployment import APP, GATEWAY, ROOT, WORKER
from compat_tests.modal_emulator.emulator import ModalEmulator
from tests.test_architecture import imported_modules

PRESENT = ("modal",)  # in every container


@pytest.fixture(scope="module")
def emulator() -> Iterator[ModalEmulator]:
    with ModalEmulator() as emulator:
        emulator.deploy("app.py", env={"ALLOW_ANONYMOUS": "true"}, cwd=ROOT)
        yield emulator


def with_requirements(packages: Iterable[str]) -> set[str]:
    """The packages and all that comes with them, by canonical names."""
    found: set[str] = set()
    todo = {canonicalize_name(package) for package in packages}
    while todo:
        package = todo.pop()
        found.add(package)
        needed = [Requirement(line) for line in requires(package) or ()]
        names = {
            canonicalize_name(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})
        }
        todo |= names - found
    return found


def imported_packages(modules: str) -> set[str]:
    """What the project's own files import that a fresh process loads with these modules."""
    program = f"import sys, {modules}; print(*{{getattr(m, '__file__', None) for m in sys.modules.values()}})"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own = [path for path in run.stdout.split() if path.startswith((f"{ROOT}/gateway/", f"{ROOT}/worker/"))]
    names = {name.partition(".")[0] for path in own for name in imported_modules(path)}
    by_name = packages_distributions()
    found: set[str] = {canonicalize_name(package) for name in names for package in by_name.get(name, [])}
    return found - {"llama-gateway"}


@pytest.mark.parametrize(
    ("function", "modules"),
    [(WORKER, "worker.modal_side, worker.service"), (GATEWAY, "gateway.app, gateway.backends.modal")],
)
def test_an_image_has_what_is_imported_in_it(emulator: ModalEmulator, function: str, modules: str) -> None:
    imported = imported_packages(modules)
    asked_for = imported & set(emulator.image_commands(APP, function)[-1].split())
    assert imported - with_requirements([*asked_for, *PRESENT]) == set()
