"""The folders of jobs: ``<root>/jobs/<client>/<job id>``, one cgroup for each job.

Theory of operation. A limit must hold before the job's first instruction, and must hold or be refused: so a job's
folder is made, its controllers are enabled in the client's folder, and every limit is written before anything can
join it; the first refusal takes the folder away again. Client folders come and go with their jobs. That makes two
races, both between a job that starts and another job of the same client that ends:

* the client's folder vanishes between its mkdir and the mkdir in it: both are tried again, a bounded number of times;
* once the job's folder exists the kernel refuses to remove the client's, so all later steps are safe.

What was written is read back: a limit that the kernel has ignored is an error.

io.max is lifted before a removal. What the job had dirtied is still to be written then, and stays throttled as it was
submitted, while everybody's fsync and the file system's journal wait for it (block/blk-throttle.c).

Removal is one try that answers whether the folder is gone. The kernel refuses (EBUSY) as long as a process lives in
it, and for a moment after the last one died; how long to go on trying is the caller's decision.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, final

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.controllers import enable_controller
from jobmaster.host.cgroup.interface import (
    GONE,
    NOT_OFFERED,
    CgroupFileError,
    read_if_offered,
    write_and_read,
    write_interface,
)
from jobmaster.host.cgroup.limits import Controller, is_in_force, no_io_limits
from jobmaster.host.cgroup.processes import folders_bottom_up, kill_each, processes_in, signal_all
from jobmaster.host.cgroup.statistics import (
    parse_cgroup_events,
    parse_counter,
    parse_cpu_stat,
    parse_io_stat,
    parse_memory_events,
    parse_pressure,
)
from jobmaster.host.cgroup.totals import ClientTotals
from jobmaster.sizes import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from jobmaster.host.cgroup.limits import LimitWrite
    from jobmaster.host.cgroup.statistics import CpuStatistics, IoStatistics, MemoryEvents, Pressure

JOBS: Final = "jobs"
_JOBS_MODE: Final = 0o711
"""Who may read the folder can open it, and take the lock that is the server's (flock(2)). Jobs reach their own cgroup all
the same."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
_MAKING_TRIES: Final = 100
# rmdir: EBUSY from cgroupfs, ENOTEMPTY from a plain folder with subfolders.
_IN_USE: Final = frozenset({errno.EBUSY, errno.ENOTEMPTY})
# rmdir, where the folder above is not writable (rmdir(2) tells this before EBUSY), or has the sticky bit.
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM})
_SWAPS: Final = Path("/proc/swaps")


class LimitWriteError(CgroupFileError):
    """A limit could not be set. ``controller`` tells which one, ``missing`` whether it is not there at all."""

    def __init__(self, controller: Controller, error: CgroupFileError) -> None:
        """Say that ``error`` came of a write for ``controller``."""
        super().__init__(error.path, error.cause, value=error.value)
        self.controller = controller

    @property
    def missing(self) -> bool:
        """Whether the kernel does not offer the controller or its file here, rather than refusing the value."""
        return self.errno in NOT_OFFERED


class LimitIgnored(CgroupError):
    """The kernel has taken the write of a limit without an error, and says something else when it is read."""

    def __init__(self, folder: Path, write: LimitWrite, found: str) -> None:
        """Say what was written, and what was found."""
        super().__init__(f"{folder}: {write.file} (writing {write.text!r}): reads {found.strip()!r}")
        self.controller = write.controller
        self.limit = f"{write.file} {write.text}"


class FolderOperations(Protocol):
    """Making and removing cgroups. A fake file system fills new folders, as the kernel does."""

    def make(self, folder: Path) -> None:
        """Make one folder; OSError as from mkdir(2)."""

    def remove(self, folder: Path) -> None:
        """Remove one folder with its interface files; OSError as from rmdir(2)."""


@final
class KernelFolders:
    """The kernel's mkdir and rmdir."""

    def make(self, folder: Path) -> None:
        """mkdir(2) with mode 0755."""
        folder.mkdir(mode=0o755)

    def remove(self, folder: Path) -> None:
        """rmdir(2); on cgroupfs the interface files go with the folder."""
        folder.rmdir()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobCgroup:
    """The cgroup of one job. Every method is one try; a cgroup that is gone is an answer, not an error."""

    path: Path
    folders: FolderOperations

    @property
    def procs_path(self) -> Path:
        """The file into which a process writes ``0`` to join."""
        return self.path / "cgroup.procs"

    def kill(self) -> None:
        """SIGKILL everything in the cgroup and its sub-cgroups, forks under way included; returns before they died.

        Raises:
            CgroupError: the kernel refuses.
        """
        try:
            write_interface(self.path / "cgroup.kill", "1")
        except CgroupFileError as error:
            if error.errno not in NOT_OFFERED:
                raise
            kill_each(self.path)  # kernel before 5.14, or a threaded cgroup; nothing to do if the cgroup is gone

    def processes(self) -> list[int]:
        """The pids in the cgroup and its sub-cgroups, zombies left out; empty when the cgroup is gone.

        Raises:
            CgroupError: a file can't be read.
        """
        return processes_in(self.path)

    def signal(self, signum: int, *, but: int | None = None) -> int:
        """Send ``signum`` to every process in the cgroup and its sub-cgroups, ``but`` one; how many were reached.

        Raises:
            CgroupError: a file can't be read, or the kernel refuses the signal.
        """
        return signal_all(self.path, signum, but=but)

    def populated(self) -> bool:
        """Whether a process lives in the cgroup or its sub-cgroups; False when the cgroup is gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = self._text("cgroup.events")
        return text is not None and parse_cgroup_events(text).populated

    def memory_events(self) -> MemoryEvents | None:
        """The counters of the memory controller; None where it is not enabled, or the cgroup gone.

        Final once :meth:`populated` is False, and lost with :meth:`remove`: read in between.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = self._text("memory.events")
        return None if text is None else parse_memory_events(text)

    def cpu_statistics(self) -> CpuStatistics | None:
        """The time used (offered without the cpu controller too); None when the cgroup is gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = self._text("cpu.stat")
        return None if text is None else parse_cpu_stat(text)

    def io_statistics(self) -> dict[str, IoStatistics] | None:
        """The traffic by ``MAJ:MIN``; None where the io controller is not enabled, or the cgroup gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = self._text("io.stat")
        return None if text is None else parse_io_stat(text)

    def memory_current(self) -> int | None:
        """Bytes in use now, page cache included; None where not offered.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        return self._counter("memory.current")

    def memory_peak(self) -> int | None:
        """The most bytes ever in use, page cache included; None where not offered (before kernel 5.19).

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        return self._counter("memory.peak")

    def pids_current(self) -> int | None:
        """Tasks now; None where the pids controller is not enabled, or the cgroup gone.

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        return self._counter("pids.current")

    def pressure(self, resource: Controller) -> Pressure | None:
        """Stall information of cpu, io or memory; None where not offered (before 4.20, psi=0).

        Raises:
            CgroupError: the file can't be read or makes no sense.
        """
        text = self._text(f"{resource}.pressure")
        return None if text is None else parse_pressure(text)

    def limits_disks(self) -> bool:
        """Whether any traffic of it is bounded.

        Raises:
            CgroupError: the file can't be read.
        """
        return bool(self._text("io.max"))

    def lift_limits(self) -> None:
        """Let what is left of it run and write as fast as the host can; for a job that is killed or has ended.

        May wait: the kernel changes no limit of a disk whose queue stands still. A process that is throttled does not act upon
        SIGKILL before it may run again, or its write is done.

        Raises:
            CgroupError: the kernel refuses.
        """
        _write_if_offered(self.path / "cpu.max", UNLIMITED)
        lift_io_limits(self.path)

    def remove(self, *, limits_disks: bool = True) -> bool:
        """Try once to remove the cgroup, its sub-cgroups first; True when it is gone.

        The client's folder goes too when this was the last job in it.

        Args:
            limits_disks: as the method says; where it may be so, and the limits are not lifted yet, it may wait as
                `lift_limits`.

        Raises:
            CgroupError: the kernel refuses for another reason than that the cgroup is in use.
        """
        if limits_disks:
            lift_io_limits(self.path)
        if not _remove_folder(self.path, self.folders) and _remove_tree(self.path, self.folders):
            return False
        _remove_folder(self.path.parent, self.folders)  # in use by another job of this client: it stays
        return True

    def _text(self, file: str) -> str | None:
        return read_if_offered(self.path / file)

    def _counter(self, file: str) -> int | None:
        text = self._text(file)
        return None if text is None else parse_counter(text)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupTree:
    """The cgroups of all jobs under one root."""

    root: Path
    controllers: frozenset[Controller] = frozenset()
    """The controllers that enforce in ``<root>/jobs``: they are enabled there and in each client's folder."""
    folders: FolderOperations = field(default_factory=KernelFolders)
    totals: ClientTotals = field(default_factory=ClientTotals)
    """What the jobs of each client may have together."""

    @property
    def jobs(self) -> Path:
        """The folder of everything that is a job."""
        return self.root / JOBS

    @property
    def kill_all_path(self) -> Path:
        """The file into which a ``1`` kills every job."""
        return self.jobs / "cgroup.kill"

    def prepare(self) -> None:
        """Make the root and its ``jobs`` folder where they are missing, and enable the controllers in them.

        Nobody but this user may read ``jobs`` then.

        Raises:
            CgroupFileError: the kernel refuses.
        """
        for folder in (self.root, self.jobs):
            _make_folder(folder, self.folders, may_exist=True)
            self._enable_controllers(folder)
        try:
            self.jobs.chmod(_JOBS_MODE)
        except OSError as error:
            raise CgroupFileError(self.jobs, error) from error

    def create(self, client: str, job_id: str, writes: Iterable[LimitWrite]) -> JobCgroup:
        """A fresh, empty cgroup with every limit set.

        Args:
            client: the owner's name; it and ``job_id`` are of letters, digits, ``_`` and ``-``.
            job_id: the job's id; no such job of this client may have a cgroup.
            writes: the limits, from :func:`~jobmaster.host.cgroup.limits.limit_writes`.

        Raises:
            LimitWriteError: a limit can't be set; nothing is left behind.
            LimitIgnored: the kernel has ignored one; likewise.
            TotalHeld: the client's jobs hold more memory than they are to have together; likewise.
            CgroupError: the folder can't be made, or a name is not as described.
        """
        job = JobCgroup(path=self.jobs / _checked(client) / _checked(job_id), folders=self.folders)
        _make_with_parent(job.path, self.folders)
        try:
            self._enable_controllers(job.path.parent)
            self.totals.write(job.path.parent)
            for write in writes:
                _write_limit(job.path, write)
        except BaseException as error:
            _remove_noting(job, error)
            raise
        return job

    def write_totals(self) -> tuple[CgroupError, ...]:
        """Write what the jobs of each client that has some may have together; what of it could not be. May wait."""
        failures: list[CgroupError] = []
        for folder in [path for path in self.jobs.iterdir() if path.is_dir()]:
            try:
                self.totals.write(folder, is_new_here=True)
            except CgroupError as error:
                if not (isinstance(error, CgroupFileError) and error.errno in GONE):  # it went with its last job
                    failures.append(error)
        return tuple(failures)

    def existing(self, client: str, job_id: str) -> JobCgroup:
        """The cgroup that `create` made, here or in an earlier server; it may be gone.

        Raises:
            CgroupError: a name is not as `create` takes it.
        """
        return JobCgroup(path=self.jobs / _checked(client) / _checked(job_id), folders=self.folders)

    def kill_all(self) -> None:
        """SIGKILL every process of every job; returns before they died.

        Raises:
            CgroupError: the kernel refuses.
        """
        JobCgroup(path=self.jobs, folders=self.folders).kill()

    def sweep(self, keep: Collection[Path] = ()) -> tuple[Path, ...]:
        """Kill what an earlier server left and try once to remove its folders; those that are still in use.

        Empty when all is gone. The ``jobs`` folder itself stays.

        Args:
            keep: the cgroups of jobs that live on; they and the folders above them are left as they are.

        Raises:
            CgroupError: the kernel refuses for another reason than that a cgroup is in use.
        """
        if not keep:
            self.kill_all()
            return _remove_tree(self.jobs, self.folders, keep_top=True)
        in_use: list[Path] = []
        for job in _others(self.jobs, frozenset(keep)):
            JobCgroup(path=job, folders=self.folders).kill()
            in_use += _remove_tree(job, self.folders)
        return tuple(in_use)

    def dispose(self) -> None:
        """Remove ``jobs`` and the root, as far as they are empty: what else lives in the root (a delegated one) stays.

        So does a root in a folder that is not this user's, as that of a delegated one is.

        Raises:
            CgroupError: the kernel refuses for another reason than that a cgroup is in use.
        """
        if _remove_tree(self.jobs, self.folders):
            return
        try:
            _remove_folder(self.root, self.folders)
        except CgroupFileError as error:
            if error.errno not in _NOT_OURS:
                raise

    def _enable_controllers(self, folder: Path) -> None:
        for controller in sorted(self.controllers):
            try:
                enable_controller(folder, controller)
            except CgroupFileError as error:
                raise LimitWriteError(controller, error) from error


def _others(jobs: Path, kept: frozenset[Path]) -> list[Path]:
    """The folders of jobs but those kept, and of clients who have none of those."""
    clients = {path.parent for path in kept}
    folders = [path for path in jobs.iterdir() if path.is_dir()]
    inner = [path for client in folders if client in clients for path in client.iterdir() if path.is_dir()]
    return [path for path in folders if path not in clients] + [path for path in inner if path not in kept]


def _remove_noting(job: JobCgroup, error: BaseException) -> None:
    try:
        job.remove()
    except CgroupError as leftover:
        error.add_note(f"left behind: {leftover}")


def _checked(name: str) -> str:
    # Interface files all have a dot in their names, so no folder named like this can collide with one.
    if _NAME.fullmatch(name) is None:
        raise CgroupError(f"not a name for a cgroup: {name!r} (letters, digits, _ and - only)")
    return name


def _make_folder(folder: Path, folders: FolderOperations, *, may_exist: bool = False) -> None:
    try:
        folders.make(folder)
    except FileExistsError as error:
        if not may_exist:
            raise CgroupFileError(folder, error) from error
    except OSError as error:
        raise CgroupFileError(folder, error) from error


def _make_with_parent(folder: Path, folders: FolderOperations) -> None:
    for _ in range(_MAKING_TRIES):
        _make_folder(folder.parent, folders, may_exist=True)
        try:
            _make_folder(folder, folders)
        except CgroupFileError as error:
            # ENOENT: the parent has been removed. ENODEV: it is being removed at this moment.
            if error.errno not in GONE:
                raise
        else:
            return
    raise CgroupError(f"{folder.parent}: removed {_MAKING_TRIES} times while {folder.name} was to be made in it")


def _write_limit(folder: Path, write: LimitWrite) -> None:
    try:
        found = write_and_read(folder / write.file, write.text)
    except CgroupFileError as error:
        if not (write.file == "memory.swap.max" and error.errno == errno.ENOENT and _kernel_has_no_swap(folder)):
            raise LimitWriteError(write.controller, error) from error
    else:
        if not is_in_force(write, found):
            raise LimitIgnored(folder, write, found)


def lift_io_limits(folder: Path) -> None:
    """Let the traffic of a cgroup with all disks be as fast as it can, that which is under way too.

    Raises:
        CgroupFileError: the kernel refuses.
    """
    for text in no_io_limits(read_if_offered(folder / "io.max") or ""):
        _write_if_offered(folder / "io.max", text)


def _write_if_offered(path: Path, text: str) -> None:
    try:
        write_interface(path, text)
    except CgroupFileError as error:
        if error.errno not in NOT_OFFERED:  # ENODEV also where the disk is gone, and with it the limit
            raise


def _kernel_has_no_swap(folder: Path) -> bool:
    # Without CONFIG_SWAP there is neither a memory.swap.max nor a /proc/swaps, nor a way round memory.max. Where only
    # the accounting is off (swapaccount=0) there is a way round, and the limit has to be refused.
    return (folder / "memory.max").exists() and not _SWAPS.exists()


def _remove_folder(folder: Path, folders: FolderOperations) -> bool:
    """Try once; whether the folder is gone."""
    try:
        folders.remove(folder)
    except OSError as error:
        if error.errno in _IN_USE:
            return False
        if error.errno not in GONE:
            raise CgroupFileError(folder, error) from error
    return True


def _remove_tree(top: Path, folders: FolderOperations, *, keep_top: bool = False) -> tuple[Path, ...]:
    """Try once for each folder, children first; those that are in use themselves, not for their children."""
    in_use: list[Path] = []
    blocked: set[Path] = set()
    for folder in folders_bottom_up(top):
        lift_io_limits(folder)
        if folder in blocked or (keep_top and folder == top):
            blocked.add(folder.parent)
        elif not _remove_folder(folder, folders):
            in_use.append(folder)
            blocked.add(folder.parent)
    return tuple(in_use)
