"""What is read from a file is what was written to it, or it is not read."""

from __future__ import annotations

import logging
import os
import random
import stat
from pathlib import Path

import pytest

from tests.worker.engine.inline import Inline
from worker.engine.prefix_folder import PrefixFolder, Stored
from worker.engine.runner import State

TOKENS = [5, 0, 262_143, 7]
DATA = bytes(range(256)) * 40


def folder(path: Path, identity: str = "a model", max_bytes: int = 1 << 20) -> PrefixFolder:
    return PrefixFolder(path, identity, max_bytes, executor=Inline())


def write(files: PrefixFolder, tokens: list[int] = TOKENS, data: bytes = DATA) -> Stored:
    stored = files.write(tokens, State(memoryview(data), len(tokens), 3)).result()
    assert stored is not None
    return stored


def test_another_process_finds_what_was_written(tmp_path: Path) -> None:
    write(folder(tmp_path / "new"))
    again = folder(tmp_path / "new")
    [(stored, tokens)] = again.found()
    assert (tokens, stored.length, stored.shortest) == (TOKENS, 4, 3)
    read = again.read(stored).result()
    assert read is not None
    assert (bytes(read.state.data), read.state.length, read.state.shortest) == (DATA, 4, 3)


def test_only_the_owner_may_read_what_users_wrote(tmp_path: Path) -> None:
    path = write(folder(tmp_path / "new")).path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_states_of_another_model_are_not_found_and_stay(tmp_path: Path) -> None:
    stored = write(folder(tmp_path, "one"))
    assert folder(tmp_path, "another").found() == []
    assert stored.path.exists()


def test_a_file_of_another_model_under_a_name_of_ours_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = write(folder(tmp_path, "one")), write(folder(tmp_path, "another"))
    theirs.path.replace(ours.path)
    assert folder(tmp_path, "one").found() == []
    assert [r.getMessage().split("ignored: ")[1] for r in caplog.records] == [
        "it is of another model, or of another version of llama.cpp"
    ]


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_is_noticed_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    rng = random.Random(seed)
    [stored] = [write(folder(tmp_path))]
    content = bytearray(stored.path.read_bytes())
    header = len(content) - len(DATA)
    place = rng.randrange(header if seed % 2 else len(content))
    damage = rng.choice(["bit", "cut", "more"])
    if damage == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif damage == "cut":
        del content[place:]
    else:
        content += b"x"
    stored.path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        files = folder(tmp_path)
        for found, _ in files.found():
            assert files.read(found).result() is None
    assert len(caplog.records) == 1
    assert str(stored.path) in caplog.text


def test_the_folder_keeps_within_its_bytes_and_gives_up_what_was_not_read_for_longest(tmp_path: Path) -> None:
    files = folder(tmp_path, max_bytes=4 * (len(DATA) + 100))
    stored = [write(files, [i, i]) for i in range(4)]
    for age, each in enumerate(stored):
        os.utime(each.path, (1_000_000 + age, 1_000_000 + age))
    assert files.read(stored[0]).result() is not None  # and so is the latest
    theirs = write(folder(tmp_path, "another model", files.max_bytes))
    assert [each.path.exists() for each in [*stored, theirs]] == [True, False, True, True, True]
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= files.max_bytes
    assert files.read(stored[1]).result() is None


def test_what_is_larger_than_all_is_not_written(tmp_path: Path) -> None:
    files = folder(tmp_path, max_bytes=len(DATA))
    assert files.write(TOKENS, State(memoryview(DATA), 4, 0)).result() is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_writer_has_left_is_removed_later(tmp_path: Path) -> None:
    old, new = tmp_path / "a.prefix.7.part", tmp_path / "b.prefix.8.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1_000_000, 1_000_000))
    folder(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_costs_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    files = folder(tmp_path / "file")
    assert files.found() == []
    caplog.clear()
    assert files.write(TOKENS, State(memoryview(DATA), 4, 0)).result() is None
    assert len(caplog.records) == 1
