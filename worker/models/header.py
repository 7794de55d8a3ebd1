"""What a GGUF file says of itself before it is loaded: enough to know what can be asked of it.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, counts of tensors and
keys, then the keys, each with a type and a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from worker.protocol import ModelInfo, ModelKind

Scalar = int | float | bool | str

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
# Architectures that write no text, whatever their file says of pooling.
ENCODERS = {
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
    "nomic-bert", "nomic-bert-moe", "t5encoder",
}  # fmt: skip


def describe(name: str, path: Path, most_tokens: int) -> ModelInfo:
    """A model that need not be loaded, as it is served with a context of `most_tokens` if it has so many."""
    header = read_header(path)
    trained = header.get(f"{header.get('general.architecture')}.context_length")
    context_length = min(most_tokens, trained) if isinstance(trained, int) else most_tokens
    created = int(path.stat().st_mtime) if path.exists() else 0
    return ModelInfo(name, created, context_length, _kind(header))


def model_kind(path: Path) -> ModelKind:
    """Whether a model writes text or makes embeddings. What cannot be read is left to llama.cpp to refuse."""
    return _kind(read_header(path))


def _kind(header: Mapping[str, Scalar]) -> ModelKind:
    architecture = header.get("general.architecture")
    pooling = header.get(f"{architecture}.pooling_type", 0)
    return "embedding" if pooling or architecture in ENCODERS else "chat"


def read_header(path: Path) -> dict[str, Scalar]:
    """The values that are no arrays, up to the tokenizer's; of a damaged file, as many as there are."""
    found: dict[str, Scalar] = {}
    try:
        with path.open("rb") as file:
            for key, value in _keys(file):
                # Its lists are megabytes; converters write it behind the architecture's own keys.
                if (
                    key.startswith("tokenizer.")
                    and f"{found.get('general.architecture')}.block_count" in found
                ):
                    break
                if value is not None:
                    found[key] = value
    except (OSError, ValueError, struct.error):
        pass
    return found


def _keys(file: BinaryIO) -> Iterator[tuple[str, Scalar | None]]:
    """Raises struct.error or ValueError where the file ends, or is not as the format has it."""
    file.seek(16)
    for _ in range(_number(file, "<Q")):
        key = _text(file)
        kind = _number(file, "<I")
        if kind == _ARRAY:
            _skip_array(file)
            yield key, None
        elif kind == _STRING:
            yield key, _text(file)
        elif kind in _SCALARS:
            yield key, _scalar(file, _SCALARS[kind])
        else:
            raise ValueError(f"{key} is of the unknown type {kind}")


def _skip_array(file: BinaryIO) -> None:
    kind, length = _number(file, "<I"), _number(file, "<Q")
    if kind in _SCALARS:
        file.seek(length * struct.calcsize(_SCALARS[kind]), 1)
    elif kind == _STRING:
        for _ in range(length):
            file.seek(_number(file, "<Q"), 1)
    else:
        raise ValueError(f"an array of the type {kind}")


def _text(file: BinaryIO) -> str:
    length = _number(file, "<Q")
    if length > 1 << 24:
        raise ValueError("a text of more than 16 MiB")
    return file.read(length).decode("utf-8", "replace")


def _number(file: BinaryIO, form: str) -> int:
    return int(_scalar(file, form))


def _scalar(file: BinaryIO, form: str) -> int | float | bool:
    value: int | float | bool = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value
