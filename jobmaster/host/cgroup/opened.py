"""The cgroup of a running job, with open files for all that its end needs.

A server that is out of descriptors must still be able to see a job die, to kill it and to say why it ended. So these
files are opened with the job, and each method that `JobCgroup` has too works without a new descriptor. What has no
file here (signals other than SIGKILL) may fail for want of one.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final, final

from jobmaster.host.cgroup.interface import GONE, NOT_OFFERED, CgroupFileError, write_interface
from jobmaster.host.cgroup.processes import kill_each
from jobmaster.host.cgroup.statistics import parse_cgroup_events, parse_memory_events

if TYPE_CHECKING:
    from pathlib import Path

    from jobmaster.host.cgroup.statistics import MemoryEvents
    from jobmaster.host.cgroup.tree import JobCgroup

DESCRIPTORS: Final = 3
"""Descriptors that one of these has at most, once its folder is closed."""
_ATTRIBUTES: Final = ("trusted.jobmaster.", "user.jobmaster.")
"""Of extended attributes (xattr(7)): the first kind is for processes with CAP_SYS_ADMIN alone, the second for who may write."""
_LARGEST: Final = 4096
"""Bytes of an interface file that is read here; the kernel gives a page at most in one read(2)."""


@final
class OpenedCgroup:
    """A cgroup whose `cgroup.kill`, `cgroup.events` and `memory.events` are open. Close it in the end."""

    def __init__(self, cgroup: JobCgroup) -> None:
        """Opens the files.

        Raises:
            CgroupFileError: one of them cannot be opened.
        """
        self._cgroup = cgroup
        with ExitStack() as undo:
            self._kill = _open_if_offered(cgroup.path / "cgroup.kill", os.O_WRONLY, undo)
            self._events = _open(cgroup.path / "cgroup.events", os.O_RDONLY, undo)
            self._memory = _open_if_offered(cgroup.path / "memory.events", os.O_RDONLY, undo)
            self.limits_disks = cgroup.limits_disks()
            """Whether any of its traffic is bounded."""
            self._folder = undo.enter_context(ExitStack())
            self.folder = _open(cgroup.path, os.O_PATH | os.O_DIRECTORY, self._folder)
            self._open = undo.pop_all()
        self._is_closed = False

    @property
    def path(self) -> Path:
        """The folder."""
        return self._cgroup.path

    def kill(self) -> None:
        """SIGKILL everything in the cgroup and its sub-cgroups, forks under way included; returns before they died.

        Raises:
            CgroupFileError: the kernel refuses.
        """
        if self._is_closed:
            self._cgroup.kill()
            return
        try:
            if self._kill is not None:
                os.pwrite(self._kill, b"1", 0)
                return
        except OSError as error:
            if error.errno in GONE:
                return
            if error.errno not in NOT_OFFERED:
                raise CgroupFileError(self.path / "cgroup.kill", error, value="1") from error
        kill_each(self.path)  # kernel before 5.14, or a threaded cgroup

    def populated(self) -> bool:
        """Whether a process lives in the cgroup or its sub-cgroups; zombies do not count.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        if self._is_closed:
            return self._cgroup.populated()
        text = self._read(self._events, "cgroup.events")
        return text is not None and parse_cgroup_events(text).populated

    def memory_events(self) -> MemoryEvents | None:
        """The counters of the memory controller; None where it is not enabled, or the cgroup gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        if self._is_closed:
            return self._cgroup.memory_events()
        text = None if self._memory is None else self._read(self._memory, "memory.events")
        return None if text is None else parse_memory_events(text)

    def keep(self, name: str, count: int) -> None:
        """Keeps a number as an extended attribute of the cgroup, where the kernel takes one.

        A job cannot change it but where it runs as the server's own user, which is no root then. It is in the kernel's memory: no
        disk is waited for.
        """
        for kind in _ATTRIBUTES:
            with suppress(OSError):
                os.setxattr(self.path, kind + name, b"%d" % count, follow_symlinks=False)
                return

    def kept(self, name: str) -> int:
        """What was kept last under this name; 0 where nothing was."""
        return kept_number(self.path, name)

    def signal(self, signum: int, but: int) -> int:
        """As `JobCgroup.signal`; needs descriptors and, where there are many processes, time."""
        return self._cgroup.signal(signum, but=but)

    def freeze(self, is_frozen: bool) -> None:
        """Freezes every process of the cgroup, or lets them go on (cgroup.freeze); needs a descriptor.

        The kernel freezes them soon: who is in uninterruptible sleep, when that is over. A signal that they handle
        waits until they go on; one that ends them does so at once.

        Raises:
            CgroupFileError: the kernel refuses, or has no such file (before 5.2).
        """
        try:
            write_interface(self.path / "cgroup.freeze", "1" if is_frozen else "0")
        except CgroupFileError as error:
            if is_frozen or error.errno not in NOT_OFFERED:  # where there is no such file, nothing is frozen
                raise

    def frozen(self) -> bool:
        """Whether every process of the cgroup is frozen now (cgroup.events), or the cgroup gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = None if self._is_closed else self._read(self._events, "cgroup.events")
        return text is None or parse_cgroup_events(text).frozen

    def lift_limits(self) -> None:
        """As `JobCgroup.lift_limits`; needs a descriptor, and may wait."""
        self._cgroup.lift_limits()

    def remove(self) -> bool:
        """As `JobCgroup.remove`; needs a descriptor only where it `limits_disks`, or is in use."""
        return self._cgroup.remove(limits_disks=self.limits_disks)

    def close_folder(self) -> None:
        """Closes `folder`, which only a process that is to be made in the cgroup needs. Idempotent."""
        self._folder.close()

    def close(self) -> None:
        """Closes the files. Idempotent. What is asked afterwards is asked by path: the numbers may be other files' by then."""
        self._is_closed = True
        self._open.close()

    def _read(self, descriptor: int, name: str) -> str | None:
        try:
            return os.pread(descriptor, _LARGEST, 0).decode()
        except OSError as error:
            if error.errno in GONE:
                return None
            raise CgroupFileError(self.path / name, error) from error


def kept_number(path: Path, name: str) -> int:
    """What `OpenedCgroup.keep` has kept last in a cgroup; 0 where nothing was, or the cgroup is gone."""
    for kind in _ATTRIBUTES:
        with suppress(OSError, ValueError):
            return int(os.getxattr(path, kind + name, follow_symlinks=False))
    return 0


def _open(path: Path, flags: int, undo: ExitStack) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CgroupFileError(path, error) from error
    undo.callback(os.close, descriptor)
    return descriptor


def _open_if_offered(path: Path, flags: int, undo: ExitStack) -> int | None:
    try:
        return _open(path, flags, undo)
    except CgroupFileError as error:
        if error.errno in NOT_OFFERED:
            return None
        raise
