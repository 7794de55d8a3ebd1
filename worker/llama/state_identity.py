"""What a state is of: one that was made with anything else must not be loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from worker.llama.library import llama_cpp

# Of the model's file: its metadata and vocabulary. Its size and time stand for the weights.
HEADER_BYTES = 1024 * 1024


def state_identity(path: Path, **context: Any) -> str:
    """As JSON: the model's file, llama.cpp, and the parameters that its context was made with."""
    stat = path.stat()
    with path.open("rb") as file:
        header = hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()
    model = {"bytes": stat.st_size, "modified": int(stat.st_mtime), "header": header}
    library = {
        "version": llama_cpp.__version__,
        "format": llama_cpp.LLAMA_STATE_SEQ_VERSION,
        "flash_attention": True,
    }
    return json.dumps({"model": model, "llama_cpp": library, "context": context}, sort_keys=True, default=str)
