"""Models from the Hugging Face Hub, checked by size and hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from worker.models.files import ModelFileError, check_model_file, sentence


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
            f"{file} could not be downloaded from {repo}: {sentence(error)} Check both names on the Hub; "
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
