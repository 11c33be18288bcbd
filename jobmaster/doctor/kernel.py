"""The kernel: its version, and the calls without which jobs are not started, or not killed."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.launcher.kernel import clone_into_cgroup
from jobmaster.server.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLDEST: Final = (5, 14)
"""The first with cgroup.kill."""
_UPDATE: Final = f"run Linux {OLDEST[0]}.{OLDEST[1]} or later"
_NO_CGROUP: Final = -1
_REFUSED_AS_SUCH: Final = frozenset({errno.EINVAL, errno.EBADF})
"""What a kernel that has the call says of a descriptor that is none (kernel/fork.c, copy_clone_args_from_user)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What was seen of it.

    Attributes:
        release: as of uname(2).
        has_cgroup_kill: None where there is no cgroup to see it in.
        clone_refusal: why no process can be made in a cgroup; None where it can.
        pidfd_refusal: why a process has no descriptor; None where it has.
    """

    release: str
    has_cgroup_kill: bool | None
    clone_refusal: str | None
    pidfd_refusal: str | None


def look_at_kernel(mount_point: Path | None) -> Kernel:
    """Looks at the running one; the cgroup v2 hierarchy is at `mount_point`."""
    return Kernel(
        release=os.uname().release,
        has_cgroup_kill=None if mount_point is None else _has_cgroup_kill(mount_point),
        clone_refusal=_clone_refusal(),
        pidfd_refusal=_pidfd_refusal(),
    )


def of_kernel(kernel: Kernel) -> Iterator[Finding]:
    """The version, and each of the calls."""
    version = _version(kernel.release)
    if version is not None and version < OLDEST:
        text = f"Linux {kernel.release} is older than what jobmaster is made for"
        yield Finding(topic="kernel", verdict=Verdict.WARNING, text=text, remedy=_UPDATE)
    else:
        yield Finding(topic="kernel", verdict=Verdict.OK, text=f"Linux {kernel.release}")
    yield _of_cgroup_kill(kernel.has_cgroup_kill, version)
    if kernel.clone_refusal is None:
        text = "clone3 makes processes in their cgroup (CLONE_INTO_CGROUP)"
        yield Finding(topic="clone3", verdict=Verdict.OK, text=text)
    else:
        text = (
            f"clone3 makes no process in a cgroup ({kernel.clone_refusal}), so each is moved there, which takes longer"
        )
        remedy = f"{_UPDATE}, and let the container's seccomp filter pass clone3"
        yield Finding(topic="clone3", verdict=Verdict.WARNING, text=text, remedy=remedy)
    if kernel.pidfd_refusal is None:
        yield Finding(topic="pidfd", verdict=Verdict.OK, text="processes have descriptors (pidfd_open)")
    else:
        text = f"processes have no descriptors (pidfd_open: {kernel.pidfd_refusal})"
        remedy = f"{_UPDATE}, and let the container's seccomp filter pass pidfd_open"
        yield Finding(topic="pidfd", verdict=Verdict.MISSING, text=text, remedy=remedy)


def _of_cgroup_kill(has_it: bool | None, version: tuple[int, int] | None) -> Finding:
    if has_it is None:
        has_it = version is None or version >= OLDEST
    if has_it:
        return Finding(topic="cgroup.kill", verdict=Verdict.OK, text="a job is killed as a whole (cgroup.kill)")
    text = "this kernel has no cgroup.kill, by which all jobs are killed at once"
    return Finding(topic="cgroup.kill", verdict=Verdict.MISSING, text=text, remedy=_UPDATE)


def _version(release: str) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    return (int(found[1]), int(found[2])) if found else None


def _has_cgroup_kill(mount_point: Path) -> bool | None:
    """The top of the hierarchy has none, so that any cgroup under it is asked."""
    try:
        folder = next((each for each in mount_point.iterdir() if each.is_dir()), None)
    except OSError:
        return None
    return None if folder is None else (folder / "cgroup.kill").exists()


def _clone_refusal() -> str | None:
    """Asks for a process in a cgroup that is none: no process is made, whatever the kernel."""
    try:
        pid, pidfd = clone_into_cgroup(_NO_CGROUP)
    except OSError as error:
        return None if error.errno in _REFUSED_AS_SUCH else error.strerror
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)
    return "it heeds no cgroup"


def _pidfd_refusal() -> str | None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.strerror
    return None
