"""Choosing the CPU variant, on a package laid out as each kind of build lays it out."""

from __future__ import annotations

from pathlib import Path

from worker.llama.cpu_variants import load_cpu_variant, loaded_variant


def test_a_native_build_needs_nothing(tmp_path: Path) -> None:
    load_cpu_variant(tmp_path / "llama_cpp")
    assert loaded_variant() == "native"


def test_the_loaded_variant_is_named(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    line = "7f0000-7f1000 r-xp 00000000 08:01 1 /site-packages/bin/libggml-cpu-icelake.so\n"
    maps.write_text("7f0000-7f1000 r-xp 00000000 08:01 1 /lib/libc.so.6\n" + 2 * line)
    assert loaded_variant(maps) == "icelake"
