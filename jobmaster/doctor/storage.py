"""The folder of journal and outputs: whether a server takes it, on which file system, and how much is free there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.host.cgroup.devices import mount_of
from jobmaster.host.cgroup.mounts import read_mounts
from jobmaster.run.bounds import Disk
from jobmaster.server.findings import Finding, Verdict
from jobmaster.server.judgements import fault_of_folder
from jobmaster.server.preparation import nearest_of
from jobmaster.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobmaster.run.bounds import FreeSpace

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_SHARED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse.glusterfs", "afs"})
_GIBIBYTE: Final = 2**30
_LEAST_FREE: Final = 64 * 2**20
"""Without so much the journal and its ballast have no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What was seen.

    Attributes:
        folder: of the outputs.
        nearest: that, or the folder above it that is there.
        fault: why a server would not take it, with the remedy.
        filesystem: the kind, as mounts tell it; empty where they do not.
        disk: its size and what is free.
    """

    folder: Path
    nearest: Path
    fault: str | None
    filesystem: str
    disk: Disk


def look_at_storage(what: str, folder: Path) -> Storage:
    """Looks at it; `what` is "output" or "audit".

    Raises:
        OSError: its disk does not answer.
        CgroupError: mountinfo can't be read.
    """
    nearest = nearest_of(folder)
    fault = fault_of_folder(what, folder, folder.lstat(), uid=os.geteuid()) if nearest == folder else None
    if nearest != folder and not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        fault = f"{what} folder {folder} cannot be made in {nearest}; run as another user, or name another"
    mount = mount_of(nearest.resolve(), read_mounts())
    return Storage(
        folder=folder,
        nearest=nearest,
        fault=fault,
        filesystem="" if mount is None else mount.filesystem,
        disk=disk_of_folder(nearest),
    )


def disk_of_folder(folder: Path) -> Disk:
    """Its file system.

    Raises:
        OSError: its disk does not answer.
    """
    found = os.statvfs(folder)
    return Disk(size=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)


def of_storage(storage: Storage, to_be_free: FreeSpace) -> Iterator[Finding]:
    """The folder, its file system, and its room; `to_be_free` is what outputs leave."""
    if storage.fault is not None:
        yield Finding(topic="output folder", verdict=Verdict.MISSING, text=storage.fault)
    else:
        there = "is there" if storage.nearest == storage.folder else "will be made at the first start"
        yield Finding(topic="output folder", verdict=Verdict.OK, text=f"{storage.folder} {there}")
    yield _of_filesystem(storage)
    yield _of_room(storage, to_be_free)


def _of_filesystem(storage: Storage) -> Finding:
    kind = storage.filesystem or "an unknown file system"
    text = f"{storage.folder} is on {kind}"
    if storage.filesystem in _IN_MEMORY:
        text += ", which is memory: journal, outputs and audit do not outlive the host's next start"
        return _finding("file system", Verdict.WARNING, text, "name a folder on a disk with --output-dir")
    if storage.filesystem in _SHARED:
        text += ", which is on the network: locks and syncs may not hold, and a server waits for it as long as it does"
        return _finding("file system", Verdict.WARNING, text, "name a folder on a local disk with --output-dir")
    return _finding("file system", Verdict.OK, text)


def _of_room(storage: Storage, to_be_free: FreeSpace) -> Finding:
    disk = storage.disk
    floor = to_be_free.floor(disk)
    text = f"{disk.free / _GIBIBYTE:.1f} of {disk.size / _GIBIBYTE:.1f} GiB are free, of which outputs leave {to_be_free.text(disk)}"
    if disk.free < _LEAST_FREE:
        return _finding(
            "free space", Verdict.MISSING, text, f"make room: a server needs {size_text(_LEAST_FREE)} at least"
        )
    if disk.free < floor:
        remedy = "make room, or give a smaller --output-free: until then ended jobs' outputs are removed, and no job is started"
        return _finding("free space", Verdict.WARNING, text, remedy)
    return _finding("free space", Verdict.OK, text)


def of_work_place(place: Path, fault: str | None, *, is_named: bool) -> Finding:
    """Where jobs have their own folders; without them they work in `/`, which a place that was named does not admit."""
    if fault is None:
        return _finding("work folder", Verdict.OK, f"jobs have folders of their own in {place}")
    if is_named:
        return _finding("work folder", Verdict.MISSING, fault)
    return _finding(
        "work folder", Verdict.WARNING, f"jobs work in / and share /tmp: {fault}", "or name another with --work-dir"
    )


def of_work_room(disk: Disk, to_be_free: FreeSpace) -> Finding:
    """What is free for the jobs' own folders, which nothing bounds."""
    text = f"{disk.free / _GIBIBYTE:.1f} of {disk.size / _GIBIBYTE:.1f} GiB are free for the jobs' own folders"
    if disk.free < to_be_free.floor(disk):
        remedy = "make room, or give a smaller --work-free: until then no job is started"
        return _finding("work space", Verdict.WARNING, f"{text}, less than {to_be_free.text(disk)}", remedy)
    return _finding("work space", Verdict.OK, text)


def _finding(topic: str, verdict: Verdict, text: str, remedy: str = "") -> Finding:
    return Finding(topic=topic, verdict=verdict, text=text, remedy=remedy)
