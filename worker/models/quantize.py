"""Converting a GGUF file to another type."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker.llama.interrupts import ctrl_c_exits
from worker.models.files import ModelFileError, check_model_file


def quantize(
    source: Path,
    target: Path,
    type_name: str,
    *,
    progress: bool = False,
    metadata: Mapping[str, float] | None = None,
) -> None:
    """Convert `source` to another GGUF type. `target` appears whole or not at all.

    Raises ModelFileError, before the conversion if it can be known by then. `metadata` is added to the file's
    own. With `progress`, llama.cpp's own line for every tensor is shown on stderr.
    """
    from worker.llama.requantize import file_type, requantize  # loads llama.cpp

    number = file_type(type_name)
    if number is None:
        raise ModelFileError(f"Unknown model type {type_name!r}; common ones are Q4_0, Q8_0, Q4_K_M and F16.")
    check_model_file(source, "Give the path of a GGUF file.")
    with _partial_file(target) as partial:
        status = requantize(source, partial, number, metadata or {}, progress=progress)
        if status != 0:
            raise ModelFileError(
                f"{source} could not be converted to {type_name}: llama.cpp gave status {status}, and its "
                f"reason above. Check that the file is whole and that {target.parent.absolute()} has space."
            )


@contextlib.contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    """A new file beside `target` that takes its place in the end, or is removed, by Ctrl-C too."""
    partial = target.parent / f"{target.name}.{os.getpid()}.partial"
    try:
        if target.is_dir():
            raise ModelFileError(
                f"{target} is a folder. Name the file to write, such as {target / 'out.gguf'}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        try:
            with ctrl_c_exits(partial.unlink):
                yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"{target} cannot be written: {error.strerror}. Choose another place for it."
        ) from error
