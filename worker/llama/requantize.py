"""llama.cpp's own conversion between types of weights."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.llama.library import llama_cpp


def file_type(name: str) -> int | None:
    """llama.cpp's number of a type such as Q4_0; None if it knows none of that name."""
    number = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}", None)
    return number if isinstance(number, int) else None


def requantize(
    source: Path, target: Path, number: int, metadata: Mapping[str, float], *, progress: bool
) -> int:
    """Write `source` to `target` with weights of type `number` and `metadata` added; llama.cpp's status.

    With `progress`, its line for every tensor is shown on stderr.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = number
    params.allow_requantize = True
    overrides = _overrides(metadata)
    params.kv_overrides = overrides
    logging.getLogger("llama-cpp-python").setLevel(logging.INFO if progress else logging.ERROR)
    paths = os.fsencode(source), os.fsencode(target)
    return int(llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)))


def _overrides(metadata: Mapping[str, float]) -> ctypes.Array[Any]:
    """llama.cpp's array of metadata, which ends with an empty key."""
    overrides = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
    for override, (key, value) in zip(overrides, metadata.items(), strict=False):
        override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT
        override.key, override.value.val_f64 = key.encode(), value
    return overrides
