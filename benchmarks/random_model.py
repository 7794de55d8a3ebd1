"""Models of any size with random weights: as fast as real ones, and nonsense to read.

In Q4_0, with the vocabulary and the chat template of another file, so that prompts are the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from benchmarks import CACHE

BLOCK = 32  # weights that share a scale in Q4_0: two bytes of it, then half a byte a weight
BLOCK_BYTES = 18
COPIED = ("tokenizer.",)


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Llama: widths, layers and heads."""

    name: str
    embedding: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int


SHAPES = (
    Shape("random-1B", 2048, 8192, 16, 32, 8),
    Shape("random-3B", 3072, 8192, 28, 24, 8),
)


def write(shape: Shape, like: Path) -> Path:
    """The file, written on first use; `like` lends its vocabulary."""
    path = CACHE / "models" / f"{shape.name}.Q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        _write(shape, gguf.GGUFReader(like), partial)
        partial.replace(path)
    return path


def _write(shape: Shape, source: gguf.GGUFReader, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(shape.name)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.embedding // shape.heads)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for name, field in source.fields.items():
        if name.startswith(COPIED):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    kv = shape.embedding // shape.heads * shape.kv_heads
    rng = np.random.default_rng(0)
    _matrix(writer, rng, "token_embd", shape.embedding, vocabulary)
    _ones(writer, "output_norm", shape.embedding)
    for layer in (f"blk.{i}" for i in range(shape.layers)):
        _ones(writer, f"{layer}.attn_norm", shape.embedding)
        _ones(writer, f"{layer}.ffn_norm", shape.embedding)
        _matrix(writer, rng, f"{layer}.attn_q", shape.embedding, shape.embedding)
        _matrix(writer, rng, f"{layer}.attn_k", shape.embedding, kv)
        _matrix(writer, rng, f"{layer}.attn_v", shape.embedding, kv)
        _matrix(writer, rng, f"{layer}.attn_output", shape.embedding, shape.embedding)
        _matrix(writer, rng, f"{layer}.ffn_gate", shape.embedding, shape.feed_forward)
        _matrix(writer, rng, f"{layer}.ffn_up", shape.embedding, shape.feed_forward)
        _matrix(writer, rng, f"{layer}.ffn_down", shape.feed_forward, shape.embedding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrix(writer: gguf.GGUFWriter, rng: np.random.Generator, name: str, inputs: int, outputs: int) -> None:
    """Random halves of bytes under one scale, which keeps a product about as large as its input."""
    blocks = rng.integers(0, 256, (outputs, inputs // BLOCK, BLOCK_BYTES), np.uint8)
    deviation = 4.6  # of the sixteen values from -8 to 7
    scale = np.float16(inputs**-0.5 / deviation)
    blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    rows = blocks.reshape(outputs, -1)
    writer.add_tensor(f"{name}.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q4_0)


def _ones(writer: gguf.GGUFWriter, name: str, size: int) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
