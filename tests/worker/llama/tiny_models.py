"""Random models of a few kilobytes, one of each kind of memory, written as GGUF in no time."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CONTEXT = 4096
EMBEDDING, FEED_FORWARD, HEAD, NUM_HEADS = 64, 96, 32, 2
WINDOW = 32
VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
KINDS = ("llama", "gemma3", "mamba", "lfm2")


def write_tiny_model(kind: str, folder: Path, seed: int = 0, template: str | None = None) -> Path:
    """A model of an architecture: `llama` sees everything, `gemma3` mostly a window, `mamba` is recurrent,
    `lfm2` is both recurrent and attentive. `template` is its chat template."""
    path = folder / f"tiny-{kind}.gguf"
    writer = gguf.GGUFWriter(path, kind)
    add_vocabulary(writer)
    if template is not None:
        writer.add_chat_template(template)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(0 if kind == "mamba" else FEED_FORWARD)
    writer.add_layer_norm_rms_eps(1e-5)
    tensors = Tensors(writer, np.random.default_rng(seed))
    tensors.matrix("token_embd", EMBEDDING, len(VOCABULARY))
    tensors.ones("token_embd_norm" if kind == "lfm2" else "output_norm", EMBEDDING)
    {"llama": _llama, "gemma3": _gemma3, "mamba": _mamba, "lfm2": _lfm2}[kind](writer, tensors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Tensors:
    def __init__(self, writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
        self._writer, self._rng = writer, rng

    def matrix(self, name: str, num_inputs: int, num_outputs: int, suffix: str = ".weight") -> None:
        values = self._rng.normal(0, num_inputs**-0.5, (num_outputs, num_inputs))
        self._writer.add_tensor(name + suffix, values.astype(np.float32))

    def ones(self, name: str, size: int, suffix: str = ".weight") -> None:
        self._writer.add_tensor(name + suffix, np.ones(size, np.float32))

    def norm(self, name: str) -> None:
        self.ones(name, EMBEDDING)
        self.ones(name, EMBEDDING, ".bias")

    def attention(self, layer: str, num_kv_heads: int, normed: bool) -> None:
        self.matrix(f"{layer}.attn_q", EMBEDDING, NUM_HEADS * HEAD)
        self.matrix(f"{layer}.attn_k", EMBEDDING, num_kv_heads * HEAD)
        self.matrix(f"{layer}.attn_v", EMBEDDING, num_kv_heads * HEAD)
        self.matrix(f"{layer}.attn_output", NUM_HEADS * HEAD, EMBEDDING)
        if normed:
            self.ones(f"{layer}.attn_q_norm", HEAD)
            self.ones(f"{layer}.attn_k_norm", HEAD)

    def feed_forward(self, layer: str) -> None:
        self.ones(f"{layer}.ffn_norm", EMBEDDING)
        self.matrix(f"{layer}.ffn_gate", EMBEDDING, FEED_FORWARD)
        self.matrix(f"{layer}.ffn_up", EMBEDDING, FEED_FORWARD)
        self.matrix(f"{layer}.ffn_down", FEED_FORWARD, EMBEDDING)


def _llama(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    _add_heads(writer, 1)
    writer.add_block_count(2)
    writer.add_rope_dimension_count(HEAD)
    for layer in ("blk.0", "blk.1"):
        tensors.ones(f"{layer}.attn_norm", EMBEDDING)
        tensors.attention(layer, 1, normed=False)
        tensors.feed_forward(layer)


def _gemma3(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    _add_heads(writer, 1)
    writer.add_block_count(6)  # of six layers one sees everything
    writer.add_sliding_window(WINDOW)
    for layer in (f"blk.{i}" for i in range(6)):
        tensors.ones(f"{layer}.attn_norm", EMBEDDING)
        tensors.attention(layer, 1, normed=True)
        tensors.ones(f"{layer}.post_attention_norm", EMBEDDING)
        tensors.feed_forward(layer)
        tensors.ones(f"{layer}.post_ffw_norm", EMBEDDING)


def _mamba(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    inner, state, rank, kernel = 2 * EMBEDDING, 16, 4, 4
    writer.add_block_count(2)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    for layer in ("blk.0", "blk.1"):
        tensors.ones(f"{layer}.attn_norm", EMBEDDING)
        tensors.matrix(f"{layer}.ssm_in", EMBEDDING, 2 * inner)
        tensors.matrix(f"{layer}.ssm_conv1d", kernel, inner)
        tensors.ones(f"{layer}.ssm_conv1d", inner, ".bias")
        tensors.matrix(f"{layer}.ssm_x", inner, rank + 2 * state)
        tensors.matrix(f"{layer}.ssm_dt", rank, inner)
        tensors.ones(f"{layer}.ssm_dt", inner, ".bias")
        writer.add_tensor(f"{layer}.ssm_a", -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1)))
        tensors.ones(f"{layer}.ssm_d", inner, "")
        tensors.matrix(f"{layer}.ssm_out", inner, EMBEDDING)


def _lfm2(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    kernel = 3
    _add_heads(writer, [0, 1])
    writer.add_block_count(2)
    writer.add_shortconv_l_cache(kernel)
    writer.add_rope_dimension_count(HEAD)
    for layer in ("blk.0", "blk.1"):
        tensors.ones(f"{layer}.attn_norm", EMBEDDING)
        tensors.feed_forward(layer)
    tensors.matrix("blk.0.shortconv.conv", kernel, EMBEDDING)
    tensors.matrix("blk.0.shortconv.in_proj", EMBEDDING, 3 * EMBEDDING)
    tensors.matrix("blk.0.shortconv.out_proj", EMBEDDING, EMBEDDING)
    tensors.attention("blk.1", 1, normed=True)


def _add_heads(writer: gguf.GGUFWriter, num_kv_heads: int | list[int]) -> None:
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types([*types, *[gguf.TokenType.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
