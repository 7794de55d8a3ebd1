"""What a GGUF file's header tells of the memory that a conversation takes, without loading the model.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
KV_VALUE_BYTES = 2  # keys and values are kept as 16-bit floats
MOST_BYTES = 1 << 26  # of one value: a damaged length must not be taken for memory to ask for
# Where one of these is told, a layer's memory does not simply grow by the token.
OTHER_MEMORY = (".ssm.", ".wkv.", ".shortconv.", ".attention.kv_lora_rank", ".recurrent")


class UnreadableHeader(ValueError):
    """The file does not go on as the format says."""


@dataclass(frozen=True, slots=True)
class Header:
    """`context_length`: tokens that the model was trained for. `token_bytes`: the KV cache of one token if
    all layers see everything, which is the most that it can be; None where the header does not tell."""

    context_length: int | None
    token_bytes: int | None


def read_header(path: Path) -> Header:
    """Raises UnreadableHeader, or OSError."""
    with path.open("rb") as file:
        try:
            return _header(_metadata(file))
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise UnreadableHeader(f"{path} has no readable header: {error}") from error


def _header(values: Mapping[str, Any]) -> Header:
    arch = values.get("general.architecture")
    context_length = values.get(f"{arch}.context_length")
    if any(mark in key for key in values for mark in OTHER_MEMORY):
        return Header(context_length, None)
    try:
        layers, heads = values[f"{arch}.block_count"], values[f"{arch}.attention.head_count"]
        kv_heads = values.get(f"{arch}.attention.head_count_kv", heads)
        size = values[f"{arch}.embedding_length"] // (max(heads) if isinstance(heads, list) else heads)
        key = values.get(f"{arch}.attention.key_length", size)
        value = values.get(f"{arch}.attention.value_length", size)
        num_heads = sum(kv_heads) if isinstance(kv_heads, list) else layers * kv_heads
        return Header(context_length, num_heads * (key + value) * KV_VALUE_BYTES or None)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return Header(context_length, None)


def _metadata(file: BinaryIO) -> dict[str, Any]:
    """All before the vocabulary, which is megabytes and stands last; lists of text are left out."""
    if file.read(4) != b"GGUF":
        raise UnreadableHeader("it is not a GGUF file")
    _, _, num_values = _unpack(file, "IQQ")
    found: dict[str, Any] = {}
    for _ in range(num_values):
        key = _text(file)
        if key.startswith("tokenizer.") and any(known.endswith(".block_count") for known in found):
            break
        [kind] = _unpack(file, "I")
        found[key] = _value(file, kind)
    return found


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(file)
    if kind == ARRAY:
        kind, length = _unpack(file, "IQ")
        if kind == STRING:
            for _ in range(length):
                _skip_text(file)
            return None
        return list(_numbers(file, kind, length))
    [value] = _numbers(file, kind, 1)
    return value


def _numbers(file: BinaryIO, kind: int, length: int) -> Iterator[Any]:
    if kind not in SCALARS:
        raise UnreadableHeader(f"it has a value of the unknown type {kind}")
    yield from _unpack(file, f"{length}{SCALARS[kind]}")


def _text(file: BinaryIO) -> str:
    [length] = _unpack(file, "Q")
    return _read(file, length).decode()


def _skip_text(file: BinaryIO) -> None:
    [length] = _unpack(file, "Q")
    _read(file, length)


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = "<" + form
    return struct.unpack(form, _read(file, struct.calcsize(form)))


def _read(file: BinaryIO, length: int) -> bytes:
    if length > MOST_BYTES or len(data := file.read(length)) < length:
        raise UnreadableHeader("it ends before its header does")
    return data
