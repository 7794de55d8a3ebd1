"""The emulator's volumes, queues and dicts, through modal's real client; and how volumes are mounted."""

from __future__ import annotations

import asyncio
import io
import queue as standard_queue
import subprocess
from pathlib import Path

import modal
import pytest
from modal.client import Client

from compat_tests.modal_emulator import ModalEmulator, mounts
from compat_tests.modal_emulator.blobs import BLOCK_SIZE


def test_the_cli_puts_lists_and_gets_files_of_a_volume(emulator: ModalEmulator, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    emulator.modal("volume", "create", "cli-volume", "--version", "2")
    emulator.modal("volume", "put", "cli-volume", str(model), "/models/model.gguf")
    assert (emulator.volume_path("cli-volume") / "models/model.gguf").read_bytes() == b"GGUF"
    assert "model.gguf" in emulator.modal("volume", "ls", "cli-volume", "/models")
    emulator.modal("volume", "get", "cli-volume", "/models/model.gguf", str(tmp_path / "again.gguf"))
    assert (tmp_path / "again.gguf").read_bytes() == b"GGUF"


def test_a_file_of_several_blocks_keeps_its_zeros(emulator: ModalEmulator, client: Client) -> None:
    """Blocks travel without their trailing zeros; a sparse file must come out whole."""
    data = b"head" + bytes(2 * BLOCK_SIZE) + b"tail" + bytes(1000)
    volume = modal.Volume.from_name("blocks", create_if_missing=True, version=2, client=client)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(data), "/sparse.bin")
    assert (emulator.volume_path("blocks") / "sparse.bin").read_bytes() == data
    assert b"".join(volume.read_file("sparse.bin")) == data


def test_a_volume_does_not_overwrite_unasked(client: Client) -> None:
    volume = modal.Volume.from_name("overwrite", create_if_missing=True, version=2, client=client)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"first"), "/file")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"second"), "/file")
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"third"), "/file")
    assert b"".join(volume.read_file("file")) == b"third"


def test_a_volume_that_nobody_made_is_not_found(client: Client) -> None:
    with pytest.raises(modal.exception.NotFoundError, match="no-such-volume"):
        modal.Volume.from_name("no-such-volume", client=client).hydrate()


def test_partitions_of_a_queue_are_separate_and_in_order(client: Client) -> None:
    queue = modal.Queue.from_name("partitions", create_if_missing=True, client=client)
    queue.put_many([1, 2, 3], partition="a")
    queue.put("other", partition="b")
    assert queue.len(partition="a") == 3
    assert queue.len(total=True) == 4
    assert queue.get_many(2, partition="a") == [1, 2]
    assert queue.get(partition="b") == "other"
    assert queue.get(partition="b", block=False) is None
    with pytest.raises(standard_queue.Empty):
        queue.get(partition="b", timeout=0.05)


def test_a_dict_remembers(client: Client) -> None:
    entries = modal.Dict.from_name("entries", create_if_missing=True, client=client)
    entries["key"] = {"a": 1}
    assert entries["key"] == {"a": 1}
    assert "key" in entries
    assert entries.pop("key") == {"a": 1}
    with pytest.raises(KeyError):
        entries["key"]


def test_an_rpc_that_is_not_emulated_says_so_by_name(client: Client) -> None:
    with pytest.raises(modal.exception.Error, match="does not know EnvironmentList"):
        modal.environments.list_environments(client=client)


# How a volume comes to its mount path


def run_with(mount: mounts.Mount, script: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    scratch.mkdir()
    command = mounts.wrap(["sh", "-c", script], [mount], scratch)
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(mounts.unshare_command() is None, reason="this machine allows no mount namespaces")
def test_a_mount_is_seen_at_its_path_and_only_by_its_container(tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir()
    target = "/no-such-directory-on-the-host/models"
    done = run_with(mounts.Mount(source, target), f"echo seen > {target}/file; pwd", tmp_path / "scratch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(Path.cwd())
    assert (source / "file").read_text() == "seen\n"
    assert not Path(target).parent.exists()


@pytest.mark.skipif(mounts.unshare_command() is None, reason="this machine allows no mount namespaces")
def test_a_read_only_mount_cannot_be_written(tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir()
    done = run_with(mounts.Mount(source, "/models", True), "touch /models/file", tmp_path / "scratch")
    assert "Read-only" in done.stderr
    assert list(source.iterdir()) == []


def test_without_namespaces_a_symlink_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "unshare_command", lambda: None)
    source, target = tmp_path / "volume", tmp_path / "models"
    source.mkdir()
    done = run_with(mounts.Mount(source, str(target)), f"echo seen > {target}/file", tmp_path / "scratch")
    assert done.returncode == 0
    assert (source / "file").read_text() == "seen\n"
    mounts.unlink(tmp_path, {str(target)})
    assert not target.is_symlink()


def test_a_mount_path_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "unshare_command", lambda: None)
    taken = tmp_path / "models"
    taken.mkdir()
    with pytest.raises(mounts.MountError, match=str(taken)):
        mounts.wrap(["true"], [mounts.Mount(tmp_path / "volume", str(taken))], tmp_path)


def test_hundreds_of_calls_may_wait_on_one_connection(client: Client) -> None:
    """As a gateway's do: with every stream taken, the call that would end their waiting could not be sent."""

    async def run() -> list[object]:
        queue = modal.Queue.from_name("streams", create_if_missing=True, client=client)
        await queue.hydrate.aio()
        waiting = [asyncio.ensure_future(queue.get.aio(timeout=20)) for _ in range(300)]
        await asyncio.sleep(0)
        await queue.put_many.aio(list(range(300)))
        return list(await asyncio.gather(*waiting))

    assert set(asyncio.run(run())) == set(range(300))
