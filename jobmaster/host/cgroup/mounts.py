"""Where the cgroup v2 hierarchy is mounted, and where in it a process is. Parsers are pure.

Formats: proc_pid_mountinfo(5), cgroups(7). Lines end with a newline and nothing else: a path may contain any other
character that str.splitlines() takes for the end of a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.host.cgroup.interface import read_interface

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC: Final = Path("/proc")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
# id, parent, device, root, mount point, options, optional fields, "-", file system, source, options
_FIELDS_BEFORE_SEPARATOR: Final = 6
_FIELDS_AFTER_SEPARATOR: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo."""

    device: str
    """``MAJ:MIN`` of ``st_dev`` for what lies in it (not on btrfs, where each subvolume has its own)."""
    root: str
    """The path inside the file system that is seen at the mount point: not ``/`` for a bind mount."""
    mount_point: Path
    filesystem: str
    source: str

    def folder_of(self, path: str) -> Path | None:
        """Where ``path``, counted from the file system's root, is seen; None if it lies outside this mount."""
        if ".." in path.split("/") or ".." in self.root.split("/"):
            return None  # outside the cgroup namespace (cgroup_namespaces(7)): no way to name it from here
        base = self.root.rstrip("/")
        if path != base and not path.startswith(base + "/"):
            return None
        return self.mount_point / path[len(base) :].lstrip("/")


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """The mounts of a ``/proc/<pid>/mountinfo``, in its order; a line of another shape is left out."""
    return tuple(mount for line in text.split("\n") if (mount := _mount(line)) is not None)


def find_cgroup2(mounts: Iterable[Mount]) -> Mount | None:
    """The mount of the v2 hierarchy, the whole one before a part of it.

    A hybrid host has it beside the v1 hierarchies, at ``/sys/fs/cgroup/unified``.
    """
    candidates = [mount for mount in mounts if mount.filesystem == "cgroup2"]
    whole = [mount for mount in candidates if mount.root == "/"]
    return next(iter(whole or candidates), None)


def parse_own_path(text: str) -> str | None:
    """The v2 path of a process from its ``/proc/<pid>/cgroup`` (the line ``0::/…``); None without cgroup v2."""
    for line in text.split("\n"):
        if line.startswith("0::/"):
            return line.removeprefix("0::")
    return None


def read_mounts(proc: Path = PROC) -> tuple[Mount, ...]:
    """The mounts this process sees.

    Raises:
        CgroupError: mountinfo can't be read.
    """
    return parse_mountinfo(read_interface(proc / "self" / "mountinfo"))


def read_own_path(proc: Path = PROC) -> str | None:
    """The v2 path of this process.

    Raises:
        CgroupError: the file can't be read.
    """
    return parse_own_path(read_interface(proc / "self" / "cgroup"))


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, kinds = before.split(" "), after.split(" ")
    if len(fields) < _FIELDS_BEFORE_SEPARATOR or len(kinds) < _FIELDS_AFTER_SEPARATOR:
        return None
    return Mount(
        device=fields[2],
        root=_unescape(fields[3]),
        mount_point=Path(_unescape(fields[4])),
        filesystem=kinds[0],
        source=_unescape(kinds[1]),
    )


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
