"""Which of llama.cpp's CPU variants runs, when the build brought several.

An image is built on one machine and run on another. So on Modal llama-cpp-python is compiled with
GGML_NATIVE=OFF, GGML_BACKEND_DL=ON and GGML_CPU_ALL_VARIANTS=ON: one library for each generation of
processors. They are installed beside the package, where it does not look; ggml itself picks the best one that
this processor can run. A native build has its one variant linked in, and nothing is done here.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from worker.llama.library import llama_cpp

PACKAGE = Path(llama_cpp.__file__).parent


def load_cpu_variant(package: Path = PACKAGE) -> None:
    """Load the best variant, once, before the first model. Without one, every load would fail."""
    folder = package.parent / "bin"
    if not any(folder.glob("libggml-cpu-*.so")):
        return
    # The copy that libllama has loaded: its registry is the one that counts, and wheels have no symlinks.
    ggml = ctypes.CDLL(str(package / "lib" / "libggml.so.0"))
    ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    if ggml.ggml_backend_reg_count() == 0:
        ggml.ggml_backend_load_all_from_path(os.fsencode(folder))


def finds_gpu() -> bool:
    """Whether this build of llama.cpp can put layers on a GPU that is here."""
    load_cpu_variant()  # no backend is known before
    return bool(llama_cpp.llama_supports_gpu_offload())


def loaded_variant(maps: Path = Path("/proc/self/maps")) -> str:
    """The variant in use, as ggml names it: `icelake`, `haswell`, …; `native` where it is linked in."""
    if not maps.exists():
        return "native"
    found = re.search(r"/libggml-cpu-(\w+)\.so$", maps.read_text(), re.MULTILINE)
    return found[1] if found else "native"
