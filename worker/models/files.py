"""GGUF files: checking them, finding them, and what their metadata tells."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from worker.protocol import WorkerFailed

GGUF_MAGIC = b"GGUF"
# The type that this project converts to: it has fast CPU kernels, and the least bits of those that do.
FAST_TYPE = "Q4_0"


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
    converted = path.with_name(f"{path.stem}.{FAST_TYPE}.gguf")
    return (
        f"{path.name} is of type {slow}, which has no fast CPU kernel. Converted, it may answer twice "
        f"as fast: llama-gateway quantize {path} {converted} --type {FAST_TYPE}"
    )


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


def size_of(path: Path) -> int:
    """Bytes of the model, of all its parts if it is split."""
    name, split, count = path.name.rpartition("-00001-of-")
    if not split:
        return path.stat().st_size
    parts = (part for part in path.parent.iterdir() if part.name.startswith(f"{name}-"))
    return sum(part.stat().st_size for part in parts if part.name.endswith(f"-of-{count}"))


def sentence(error: Exception) -> str:
    """What it says, ready to be followed by another sentence."""
    return f"{str(error).strip().removesuffix('.')}."
