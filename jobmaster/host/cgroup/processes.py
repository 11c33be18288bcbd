"""Signals for every process of a cgroup and its sub-cgroups, never for a process that took over a reused pid.

A pid read from ``cgroup.procs`` may belong to somebody else a moment later. So each one is turned into a pidfd
first, and ``cgroup.procs`` is read *again*: a pid that is still listed then belongs to the cgroup at that later
moment. If the pidfd is of an earlier holder of the pid, that one is dead and the signal goes nowhere; if it is of
the present holder, that one was just seen inside. Either way nobody else is hit.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.interface import GONE, NOT_OFFERED, CgroupFileError, read_if_offered, write_interface

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BATCH: Final = 64  # pidfds open at once: far from the usual bound of 1024 descriptors
_KILLING_PASSES: Final = 50
# pidfd_open(2): ESRCH no such process; EINVAL (ENOENT from Linux 6.9 on) a thread that is not a main thread.
_NOT_A_PROCESS: Final = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})


def folders_bottom_up(top: Path) -> list[Path]:
    """``top`` and every folder under it, children before their parents; what vanishes meanwhile is left out.

    Symbolic links are not followed. Iterative: a job that runs as root can nest deeper than Python recurses.

    Raises:
        CgroupFileError: a folder can't be read.
    """
    found: list[Path] = []
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                children = [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in GONE:
                continue
            raise CgroupFileError(folder, error) from error
        found.append(folder)
        pending.extend(children)
    found.reverse()  # a parent is always found before its children
    return found


def processes_in(top: Path) -> list[int]:
    """The pids in ``top`` and its sub-cgroups, ascending; empty when the cgroup is gone.

    Zombies are not listed. Processes of a pid namespace that this one can't see are left out: ``cgroup.kill``
    reaches them all the same.

    Raises:
        CgroupError: a file can't be read.
    """
    pids = {int(word) for folder in folders_bottom_up(top) for word in _pids_text(folder).split()}
    return sorted(pids - {0})


def signal_all(top: Path, signum: int, *, but: int | None = None) -> int:
    """Send ``signum`` once to every process seen in ``top`` and its sub-cgroups, ``but`` one; how many were reached.

    Raises:
        CgroupError: a file can't be read, or the kernel refuses the signal.
    """
    return _signal(top, (pid for pid in processes_in(top) if pid != but), signum)


def kill_each(top: Path) -> None:
    """SIGKILL every process in ``top``, for kernels without ``cgroup.kill`` (before 5.14); returns before they died.

    The cgroup is frozen meanwhile where that is possible, so that nothing in it can fork faster than it is killed,
    and always thawed again. A frozen process dies of SIGKILL.

    Raises:
        CgroupError: processes are still appearing after a bounded number of passes, or a file refuses.
    """
    _freeze(top, frozen=True)
    try:
        reached: set[int] = set()  # they stay listed until they are dead
        for _ in range(_KILLING_PASSES):
            fresh = set(processes_in(top)) - reached
            if not fresh:
                return
            _signal(top, fresh, signal.SIGKILL)
            reached |= fresh
    finally:
        _freeze(top, frozen=False)
    raise CgroupError(f"{top}: new processes still appear after {_KILLING_PASSES} passes of SIGKILL")


def _pids_text(folder: Path) -> str:
    # Kernel: cgroup.procs of a threaded cgroup can't be read (EOPNOTSUPP); its threads are listed elsewhere.
    processes = read_if_offered(folder / "cgroup.procs")
    if processes is None:
        processes = read_if_offered(folder / "cgroup.threads")
    return processes or ""


def _signal(top: Path, pids: Iterable[int], signum: int) -> int:
    return sum(_signal_batch(top, batch, signum) for batch in _batches(pids))


def _batches(pids: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(pids)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _signal_batch(top: Path, pids: list[int], signum: int) -> int:
    with ExitStack() as descriptors:
        opened = {pid: pidfd for pid in pids if (pidfd := _open_pidfd(pid, descriptors)) is not None}
        still_inside = set(processes_in(top))
        return sum(_send(pidfd, signum) for pid, pidfd in opened.items() if pid in still_inside)


def _open_pidfd(pid: int, descriptors: ExitStack) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NOT_A_PROCESS:
            return None
        raise CgroupError(f"pidfd_open of process {pid}: {error.strerror}") from error
    descriptors.callback(os.close, pidfd)
    return pidfd


def _send(pidfd: int, signum: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise CgroupError(f"signal {signum} to a process of the job: {error.strerror}") from error
    return True


def _freeze(top: Path, *, frozen: bool) -> None:
    try:
        write_interface(top / "cgroup.freeze", "1" if frozen else "0")  # kernel 5.2
    except CgroupFileError as error:
        if error.errno not in NOT_OFFERED:
            raise
