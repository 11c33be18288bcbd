"""Who has the lock of a folder, told without taking it: a server that starts at the moment does not find it taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.host.cgroup.devices import mount_of
from jobmaster.host.cgroup.mounts import PROC, read_mounts
from jobmaster.server.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobmaster.host.cgroup.mounts import Mount

_FIELDS: Final = 6
"""number, kind, mode, access, pid, MAJ:MIN:INODE; in hexadecimal the first two of the last (proc_locks(5))."""


def holder_of_lock(folder: Path, proc: Path = PROC, mounts: Iterable[Mount] | None = None) -> int | None:
    """The process that took the flock(2) of this folder, which others may hold by now; None where nobody has it.

    Raises:
        CgroupError: mountinfo can't be read.
        OSError: the folder can't be looked at, or the locks can't.
    """
    inode = folder.stat().st_ino
    mount = mount_of(folder.resolve(), read_mounts() if mounts is None else mounts)
    return None if mount is None else parse_locks((proc / "locks").read_text()).get((mount.device, inode))


def parse_locks(text: str) -> dict[tuple[str, int], int]:
    """The processes of a /proc/locks that took an flock(2), by MAJ:MIN of the file system and inode; who waits is left out."""
    rows = (line.split() for line in text.split("\n"))
    return {
        place: int(row[4])
        for row in rows
        if len(row) > _FIELDS and row[1] == "FLOCK" and (place := _place(row[5])) is not None
    }


def _place(text: str) -> tuple[str, int] | None:
    try:
        major, minor, inode = text.split(":")
        return f"{int(major, 16)}:{int(minor, 16)}", int(inode)
    except ValueError:
        return None


def of_holder(folder: Path, pid: int | None) -> Finding:
    """Whether a server has this folder."""
    if pid is None:
        return Finding(topic="server", verdict=Verdict.OK, text=f"no server has {folder}")
    return Finding(
        topic="server", verdict=Verdict.OK, text=f"a server has {folder}; its lock was taken by process {pid}"
    )
