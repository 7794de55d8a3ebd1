"""Random embedding models of a few kilobytes: `bert`, whose tokens all see each other, and `qwen3`, whose
tokens see those before them and whose last one is the vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from tests.worker.llama.tiny_models import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD,
    NUM_HEADS,
    VOCABULARY,
    Tensors,
    add_vocabulary,
)

CONTEXT = 256
POOLING = {"bert": gguf.PoolingType.MEAN, "qwen3": gguf.PoolingType.LAST}
# WordPiece: what begins a word is marked, what goes on is not.
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁{c}" for c in "abcdefgh"), *"abcdefgh"]
UNK, CLS, SEP = 1, 2, 3


def write_tiny_embedding_model(
    kind: str, folder: Path, name: str | None = None, pooling: gguf.PoolingType | None = None
) -> Path:
    """`pooling` is the kind's own unless given; NONE leaves it out of the file."""
    path = folder / f"{name or f'tiny-{kind}'}.gguf"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_block_count(2)
    if pooling != gguf.PoolingType.NONE:
        writer.add_pooling_type(pooling or POOLING[kind])
    tensors = Tensors(writer, np.random.default_rng(0))
    {"bert": _bert, "qwen3": _qwen3}[kind](writer, tensors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _bert(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    add_word_pieces(writer, WORDS)
    tensors.matrix("token_embd", EMBEDDING, len(WORDS))
    tensors.matrix("position_embd", EMBEDDING, CONTEXT)
    tensors.matrix("token_types", EMBEDDING, 2)
    tensors.norm("token_embd_norm")
    for layer in ("blk.0", "blk.1"):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.matrix(f"{layer}.{name}", EMBEDDING, EMBEDDING)
            tensors.ones(f"{layer}.{name}", EMBEDDING, ".bias")
        tensors.norm(f"{layer}.attn_output_norm")
        tensors.matrix(f"{layer}.ffn_up", EMBEDDING, FEED_FORWARD)
        tensors.ones(f"{layer}.ffn_up", FEED_FORWARD, ".bias")
        tensors.matrix(f"{layer}.ffn_down", FEED_FORWARD, EMBEDDING)
        tensors.ones(f"{layer}.ffn_down", EMBEDDING, ".bias")
        tensors.norm(f"{layer}.layer_output_norm")


def add_word_pieces(writer: gguf.GGUFWriter, words: Sequence[str]) -> None:
    """What is in brackets is no text, as [CLS] and [SEP], which have to be there."""
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list(words)
    writer.add_token_types([control if word.startswith("[") else normal for word in words])
    writer.add_token_type_count(2)
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_sep_token_id(words.index("[SEP]"))


def _qwen3(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    add_vocabulary(writer)
    writer.add_add_eos_token(True)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    tensors.matrix("token_embd", EMBEDDING, len(VOCABULARY))
    tensors.ones("output_norm", EMBEDDING)
    for layer in ("blk.0", "blk.1"):
        tensors.ones(f"{layer}.attn_norm", EMBEDDING)
        tensors.attention(layer, 1, normed=True)
        tensors.feed_forward(layer)
