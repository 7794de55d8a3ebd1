"""llama.cpp's own sources at the pinned version: real chat templates, vocabularies without weights, cases.

They are part of llama-cpp-python's source distribution (77 MB), which pip downloads once into `.cache` and
checks by its hash in constraints.txt. Nothing of it is committed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

from worker.llama.build import pinned_version, requirement

_ROOT = Path(__file__).parent.parent
_WANTED = (
    "/models/",
    "/tests/test-chat.cpp",
    "/src/llama-vocab.cpp",
)  # of llama.cpp's folder; the rest is code to compile


@cache
def sdist_folder() -> Path:
    """llama.cpp's folder in the sdist. Skips the test where it is neither cached nor to be downloaded."""
    version = pinned_version()
    folder = _ROOT / ".cache" / f"llama_cpp_python-{version}-{len(_WANTED)}"  # anew where more is wanted
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(_download(requirement(), Path(temporary)), folder)
    return folder


def template_files() -> list[Path]:
    """All chat templates that llama.cpp tests itself with."""
    return sorted((sdist_folder() / "models" / "templates").glob("*.jinja"))


def vocabulary_files() -> list[Path]:
    """GGUF files with a vocabulary and no weights; to be loaded with `vocab_only`."""
    return sorted((sdist_folder() / "models").glob("ggml-vocab-*.gguf"))


def pre_tokenizers() -> list[str]:
    """The values of `tokenizer.ggml.pre` that llama.cpp knows."""
    source = (sdist_folder() / "src" / "llama-vocab.cpp").read_text()
    return sorted(set(re.findall(r'tokenizer_pre == "([^"]+)"', source)))


def _download(pin: str, folder: Path) -> Path:
    (folder / "requirements.txt").write_text(pin)
    download = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    source = ["--no-binary", "llama-cpp-python", "--requirement", "requirements.txt"]
    try:
        subprocess.run([sys.executable, "-m", "pip", *download, *source], cwd=folder, check=True)
    except subprocess.CalledProcessError:
        pytest.skip("llama.cpp's sources are not cached and pip cannot download them.")
    return next(folder.glob("*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> None:
    """Complete or not at all, whoever else does the same."""
    folder.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/vendor/llama.cpp")
            if member.isfile() and path.startswith(_WANTED):
                member.name = path[1:]
                tar.extract(member, partial, filter="data")
    try:
        partial.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(partial)
