"""The cgroup hierarchy: where it is, which part of it a server would take, and which limits hold there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.controllers import EVERY_CONTROLLER, Enforcement, foresee_controllers
from jobmaster.host.cgroup.mounts import PROC, find_cgroup2, read_mounts
from jobmaster.host.cgroup.root import choose_root, read_host, require_cgroup2
from jobmaster.server.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from jobmaster.host.cgroup.mounts import Mount
    from jobmaster.host.cgroup.root import CgroupHost, CgroupRoot

_TOPIC: Final = "cgroup root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """What was seen.

    Attributes:
        mount: of the v2 hierarchy.
        v1: the mount points of v1 hierarchies.
        root: the part of it that a server takes, which may not be there yet; None: `refusal` says why.
        refusal: with the remedy.
        enforcement: what the controllers do there.
    """

    mount: Mount | None
    v1: tuple[Path, ...]
    root: CgroupRoot | None
    refusal: str
    enforcement: Enforcement


def look_at_cgroups(explicit: Path | None, in_use: Path | None, proc: Path = PROC) -> Cgroups:
    """Looks at it.

    Args:
        explicit: the --cgroup-root, if any.
        in_use: the one of a server that is running, if any.
        proc: where procfs is mounted.

    Raises:
        CgroupError: procfs or the hierarchy can't be read.
    """
    mounts = read_mounts(proc)
    mount = find_cgroup2(mounts)
    v1 = tuple(each.mount_point for each in mounts if each.filesystem == "cgroup")
    host = read_host(proc)
    root, refusal = _choose(explicit or in_use, host)
    return Cgroups(mount=mount, v1=v1, root=root, refusal=refusal, enforcement=_foresee(mount, root, host, proc))


def of_cgroups(found: Cgroups, *, is_in_use: bool) -> Iterator[Finding]:
    """The hierarchy and the part of it; `is_in_use`: it is a running server's."""
    yield _of_mounts(found.mount, found.v1)
    if found.root is None:
        yield Finding(topic=_TOPIC, verdict=Verdict.MISSING, text=found.refusal)
        return
    origin = "in use by the server that is running" if is_in_use else found.root.origin.value
    there = "" if found.root.path.exists() else ", to be made at the first start"
    yield Finding(topic=_TOPIC, verdict=Verdict.OK, text=f"{found.root.path}, {origin}{there}")


def _of_mounts(mount: Mount | None, v1: Sequence[Path]) -> Finding:
    if mount is None:
        return Finding(
            topic="cgroup",
            verdict=Verdict.MISSING,
            text="no cgroup v2 is mounted on this host",
            remedy="mount -t cgroup2 none /sys/fs/cgroup",
        )
    beside = f", beside v1 of {', '.join(sorted(each.name for each in v1))} (hybrid)" if v1 else ""
    return Finding(topic="cgroup", verdict=Verdict.OK, text=f"cgroup v2 is mounted at {mount.mount_point}{beside}")


def _choose(explicit: Path | None, host: CgroupHost) -> tuple[CgroupRoot | None, str]:
    try:
        root = choose_root(explicit, host)
        require_cgroup2(root.path, host.mount)
    except ConfigurationError as error:
        return None, str(error)
    return (None, refusal) if (refusal := _refusal(root.path, host)) else (root, "")


def _refusal(root: Path, host: CgroupHost) -> str | None:
    """Why this user can't make cgroups there, or move its processes to them (cgroups(7), delegation)."""
    nearest = next(each for each in (root, *root.parents) if each.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written by this user: run as root, or have it delegated (Delegate=yes of a unit)"
    if host.superuser or host.own is None:
        return None
    common = os.path.commonpath([host.own, nearest])
    if os.access(f"{common}/cgroup.procs", os.W_OK):
        return None
    return (
        f"this process is in {host.own}, from which its user may move none to {root}: start the server in a cgroup below "
        f"one that is delegated to it (systemd-run --user --scope -p Delegate=yes …)"
    )


def _foresee(mount: Mount | None, root: CgroupRoot | None, host: CgroupHost, proc: Path) -> Enforcement:
    if mount is None:
        return EVERY_CONTROLLER.without("no cgroup v2 is mounted on this host")
    if root is not None:
        is_vacated = host.own == root.path
        return foresee_controllers(mount.mount_point, root.path, is_vacated=is_vacated, proc=proc)
    at_top = foresee_controllers(mount.mount_point, mount.mount_point, is_vacated=True, proc=proc)
    return at_top.without("there is no cgroup that a server may use")
