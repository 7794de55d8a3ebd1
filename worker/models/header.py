"""What a GGUF file says of itself before it is loaded: enough to know what can be asked of it.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, counts of tensors and
keys, then the keys, each with a type and a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from worker.protocol import ModelInfo, ModelKind

Scalar = int | float | bool | str
Header = dict[str, Scalar | list[Scalar]]

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
_MOST_NUMBERS = 4096  # of a list that is read: one for each layer, as a rule
_VALUE_BYTES = 2  # keys and values are kept as 16-bit floats
# Where one of these is told, a layer's memory does not simply grow by the token.
_OTHER_MEMORY = (".ssm.", ".wkv.", ".shortconv.", ".attention.kv_lora_rank")
# Architectures that write no text, whatever their file says of pooling.
ENCODERS = {
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
    "nomic-bert", "nomic-bert-moe", "t5encoder",
}  # fmt: skip


def describe(name: str, path: Path, most_tokens: int) -> ModelInfo:
    """A model that need not be loaded, as it is served with a context of `most_tokens` if it has so many."""
    header = read_header(path)
    context_length = min(most_tokens, context_length_of(header) or most_tokens)
    created = int(path.stat().st_mtime) if path.exists() else 0
    return ModelInfo(name, created, context_length, kind_of(header))


def model_kind(path: Path) -> ModelKind:
    """Whether a model writes text or makes embeddings. What cannot be read is left to llama.cpp to refuse."""
    return kind_of(read_header(path))


def kind_of(header: Header) -> ModelKind:
    architecture = header.get("general.architecture")
    pooling = header.get(f"{architecture}.pooling_type", 0)
    return "embedding" if pooling or architecture in ENCODERS else "chat"


def context_length_of(header: Header) -> int | None:
    """Tokens that the model was trained for."""
    length = header.get(f"{header.get('general.architecture')}.context_length")
    return length if isinstance(length, int) else None


def token_bytes_of(header: Header) -> int | None:
    """The KV cache of one token if all layers see everything, which is the most that it can be.

    None where the header does not tell: a recurrent layer's memory does not grow, and others have their own.
    """
    if any(mark in key for key in header for mark in _OTHER_MEMORY):
        return None
    arch = header.get("general.architecture")

    def value(name: str) -> Any:
        return header.get(f"{arch}.{name}")

    try:
        heads = value("attention.head_count")
        kv_heads = value("attention.head_count_kv") or heads
        size = value("embedding_length") // (max(heads) if isinstance(heads, list) else heads)
        sizes = [value(f"attention.{name}_length") or size for name in ("key", "value")]
        num_heads = sum(kv_heads) if isinstance(kv_heads, list) else value("block_count") * kv_heads
        return int(num_heads * sum(sizes) * _VALUE_BYTES) or None
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def read_header(path: Path) -> Header:
    """The values but lists of text, up to the tokenizer's; of a damaged file, as many as there are."""
    found: Header = {}
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


def _keys(file: BinaryIO) -> Iterator[tuple[str, Scalar | list[Scalar] | None]]:
    """Raises struct.error or ValueError where the file ends, or is not as the format has it."""
    file.seek(16)
    for _ in range(_number(file, "<Q")):
        key = _text(file)
        kind = _number(file, "<I")
        if kind == _ARRAY:
            yield key, _array(file)
        elif kind == _STRING:
            yield key, _text(file)
        elif kind in _SCALARS:
            yield key, _scalar(file, _SCALARS[kind])
        else:
            raise ValueError(f"{key} is of the unknown type {kind}")


def _array(file: BinaryIO) -> list[Scalar] | None:
    """None for one that is only skipped."""
    kind, length = _number(file, "<I"), _number(file, "<Q")
    if kind in _SCALARS and length <= _MOST_NUMBERS:
        return [_scalar(file, _SCALARS[kind]) for _ in range(length)]
    if kind in _SCALARS:
        file.seek(length * struct.calcsize(_SCALARS[kind]), 1)
    elif kind == _STRING:
        for _ in range(length):
            file.seek(_number(file, "<Q"), 1)
    else:
        raise ValueError(f"an array of the type {kind}")
    return None


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
