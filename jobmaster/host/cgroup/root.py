"""Choosing the cgroup that jobmaster keeps its jobs under, and getting the server's own processes out of its way.

cgroup v2 has one writer for each folder. What the operator names is taken; else the cgroup that a service manager
delegated to this process; else, in a container, the top of its cgroup namespace; else, as root, a folder of our own
at the top. When the server itself sits in the folder chosen, it has to move to a leaf before controllers can be
enabled there (kernel: no internal processes).
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.errors import CgroupError, ConfigurationError
from jobmaster.host.cgroup import user_manager
from jobmaster.host.cgroup.interface import CgroupFileError, read_interface, write_interface
from jobmaster.host.cgroup.mounts import PROC, find_cgroup2, read_mounts, read_own_path

if TYPE_CHECKING:
    from pathlib import Path

    from jobmaster.host.cgroup.mounts import Mount

SUPERVISOR: Final = "supervisor"
TOP_NAME: Final = "jobmaster"

# systemd marks a unit with Delegate=yes by both; "trusted." is from before user attributes worked on cgroupfs (5.7).
_DELEGATION_MARKS: Final = ("user.delegate", "trusted.delegate")
_MOVING_PASSES: Final = 20

_NO_MOUNT: Final = "no cgroup v2 is mounted on this host: mount -t cgroup2 none /sys/fs/cgroup"
_REMEDY: Final = (
    "start the server in a delegated unit (systemd-run --scope -p Delegate=yes …, or Delegate=yes in its unit file), "
    "or run it as root, or name a writable cgroup v2 folder with --cgroup-root"
)


class RootOrigin(enum.Enum):
    """How the root was found."""

    EXPLICIT = "named by --cgroup-root"
    DELEGATED = "delegated to this process by its service manager"
    NAMESPACE = "the top of this container's cgroup namespace"
    TOP = "a folder of jobmaster's own at the top of the hierarchy"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupRoot:
    """The folder that jobmaster keeps its jobs under."""

    path: Path
    origin: RootOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupHost:
    """What the choice of a root depends on."""

    mount: Mount | None
    """The cgroup v2 mount; None if this host has none."""
    own: Path | None
    """The cgroup of this process, or its parent if that cgroup is the supervisor's leaf; None if not visible."""
    delegated: bool
    """``own`` bears a delegation mark."""
    namespace_top: bool
    """``own`` is the mount point, and that is the top of a cgroup namespace, not of the whole hierarchy."""
    superuser: bool
    """This process runs as root."""


def read_host(proc: Path = PROC) -> CgroupHost:
    """Look at this process and its mounts.

    Raises:
        CgroupError: procfs can't be read.
    """
    mount = find_cgroup2(read_mounts(proc))
    own = _own_folder(mount, read_own_path(proc))
    return CgroupHost(
        mount=mount,
        own=own,
        delegated=own is not None and _is_delegated(own),
        namespace_top=own is not None and mount is not None and own == mount.mount_point and _has_parent(own),
        superuser=os.geteuid() == 0,
    )


def choose_root(explicit: Path | None, host: CgroupHost) -> CgroupRoot:
    """The root for jobs. Pure: nothing is made or looked at.

    Raises:
        ConfigurationError: there is none, with the remedies.
    """
    if explicit is not None:
        if not explicit.is_absolute() or ".." in explicit.parts:
            raise ConfigurationError(f"--cgroup-root {explicit}: must be an absolute path without '..'")
        return CgroupRoot(path=explicit, origin=RootOrigin.EXPLICIT)
    if host.mount is None:
        raise ConfigurationError(_NO_MOUNT)
    if host.own is not None and host.delegated:
        return CgroupRoot(path=host.own, origin=RootOrigin.DELEGATED)
    if host.own is not None and host.namespace_top and host.superuser:
        return CgroupRoot(path=host.own, origin=RootOrigin.NAMESPACE)
    if host.superuser:
        return CgroupRoot(path=host.mount.mount_point / TOP_NAME, origin=RootOrigin.TOP)
    raise ConfigurationError(f"no cgroup that jobmaster may use ({host.own} is not delegated to it): {_REMEDY}")


def require_cgroup2(root: Path, mount: Mount | None) -> Mount:
    """Check that ``root``, which may not exist yet, lies in the cgroup v2 mount; the mount.

    Raises:
        ConfigurationError: it does not.
    """
    if mount is None:
        raise ConfigurationError(_NO_MOUNT)
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    # statfs(2) would tell by CGROUP2_SUPER_MAGIC, but Python's statvfs has no f_type. The device number tells as well,
    # also where another file system was mounted over the hierarchy.
    number = nearest.stat().st_dev
    if f"{os.major(number)}:{os.minor(number)}" != mount.device or not root.is_relative_to(mount.mount_point):
        raise ConfigurationError(f"{root} is not in the cgroup v2 mount {mount.mount_point}: name a folder under it")
    if root == mount.mount_point and not _has_parent(root):
        raise ConfigurationError(
            f"{root} is the top of the whole hierarchy, whose processes are the host's: name a folder under it with "
            "--cgroup-root"
        )
    if not root.parent.exists():
        raise ConfigurationError(
            f"the cgroup {root} cannot be made, for there is no {root.parent}: make that, or name "
            "another with --cgroup-root"
        )
    return mount


def move_to_supervisor(root: Path) -> Path:
    """Move every process that sits in ``root`` itself to the leaf ``root``/supervisor, and return the leaf.

    Among them is normally the server, and in a container whatever else was started at the top of its namespace.
    Does nothing but make the leaf where no process sits in ``root``.

    Raises:
        CgroupError: the leaf can't be made, or processes stay (each pass moves those seen; new ones may be forked).
    """
    leaf = root / SUPERVISOR
    try:
        leaf.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise CgroupFileError(leaf, error) from error
    for _ in range(_MOVING_PASSES):
        pids = read_interface(root / "cgroup.procs").split()
        if not pids:
            return leaf
        for pid in pids:
            _move(pid, leaf)
    raise CgroupError(f"{root}: processes still appear in it after {_MOVING_PASSES} passes of moving them to {leaf}")


def _move(pid: str, leaf: Path) -> None:
    if pid == "0":
        raise CgroupError(f"{leaf.parent}: holds a process of another pid namespace, which can't be moved from here")
    try:
        write_interface(leaf / "cgroup.procs", pid)
    except CgroupFileError as error:
        if error.errno != errno.ESRCH:  # it ended in between
            raise


def _own_folder(mount: Mount | None, own_path: str | None) -> Path | None:
    if mount is None or own_path is None:
        return None
    folder = mount.folder_of(own_path)
    if folder is None or folder.name != SUPERVISOR:
        return folder
    # A server that its service manager put there (DelegateSubgroup=) or that replaced itself is in the leaf already.
    parent = folder.parent
    return parent if parent == mount.mount_point or _is_delegated(parent) else folder


def _is_delegated(folder: Path) -> bool:
    return any(_mark(folder, name) == b"1" for name in _DELEGATION_MARKS) or user_manager.has_delegated(folder)


def _mark(folder: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(folder, name, follow_symlinks=False)
    except OSError:  # no such mark, no right to see it, or a file system without marks
        return None


def _has_parent(folder: Path) -> bool:
    # Kernel: the top of the whole hierarchy is the one cgroup without a cgroup.type.
    return (folder / "cgroup.type").exists()
