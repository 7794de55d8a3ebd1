"""How a container sees its volumes at their mount paths, although the entrypoint mounts nothing.

A private mount namespace (`unshare --mount`) is the way where the system allows one: the container sees
the real absolute path, the host's file system stays as it was, two emulators do not meet, and read-only
mounts are read-only. Elsewhere (an unprivileged container, macOS) a symlink stands in: it needs a parent
directory that may be written to, and is the same for everyone on the machine.
"""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The mount path usually does not exist on the host, so the namespace gets a root of its own: the host's
# top-level entries, bound one by one, beside which new directories may be made.
NAMESPACE_SCRIPT = """
set -eu
root=$1; shift
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
    elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
    else : > "$root$entry"; mount --bind "$entry" "$root$entry"
    fi
done
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
shift
exec chroot "$root" env -C "$PWD" "$@"
"""


class MountError(RuntimeError):
    """A volume cannot be shown at its mount path on this machine."""


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: str
    read_only: bool = False


def wrap(command: list[str], mounts: list[Mount], scratch: Path) -> list[str]:
    """The command that runs `command` with the mounts in place; `scratch` is an empty directory."""
    if not mounts:
        return command
    unshare = unshare_command()
    if unshare is None:
        for mount in mounts:
            _link(mount)
        return command
    arguments = [
        word
        for mount in mounts
        for word in (str(mount.source), mount.target.rstrip("/"), "ro" if mount.read_only else "rw")
    ]
    return [*unshare, "sh", "-c", NAMESPACE_SCRIPT, "sh", str(scratch), *arguments, "--", *command]


@functools.cache
def unshare_command() -> tuple[str, ...] | None:
    """How this user may have a mount namespace: as root, in a user namespace, or not at all."""
    candidates: list[tuple[str, ...]] = [("unshare", "--user", "--map-root-user", "--mount")]
    if os.geteuid() == 0:
        candidates.insert(0, ("unshare", "--mount"))
    probe = ("sh", "-c", 'd=$(mktemp -d) && mount -t tmpfs tmpfs "$d" && umount "$d" && rmdir "$d"')
    for candidate in candidates:
        try:
            subprocess.run([*candidate, *probe], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return None


def _link(mount: Mount) -> None:
    target = Path(mount.target)
    if target.is_symlink() and target.readlink() == mount.source:
        return
    try:
        target.symlink_to(mount.source)
    except OSError as error:
        raise MountError(
            f"This machine allows neither mount namespaces (unshare --mount) nor a symlink at {target}, "
            f"so a container cannot see its volume there: {error}"
        ) from error


def unlink(source_root: Path, targets: set[str]) -> None:
    """Remove the symlinks that `wrap` made into `source_root`."""
    for target in map(Path, targets):
        if target.is_symlink() and target.readlink().is_relative_to(source_root):
            target.unlink()
