"""Executions on this host: a cgroup, and in it a child of the launcher.

`LocalHost.spawn` acquires everything a job needs of the host, or nothing: the cgroup with its limits, the log, the pipe,
the open files of the cgroup, and a child that is held before it executes the command. What blocks (the disk of the logs,
the kernel's locks) is done in a thread of its own purpose, under a deadline; a thread that comes too late undoes what it
did. The command itself is looked up by the child, as the job's user.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import (
    CgroupError,
    CommandNotRunnable,
    HostError,
    InvalidRequest,
    LimitNotEnforceable,
    ServerBusy,
)
from jobmaster.host.account import SEARCH_PATH, Account
from jobmaster.host.cgroup.interface import CgroupFileError, read_if_offered
from jobmaster.host.cgroup.limits import LimitWrite
from jobmaster.host.cgroup.opened import DESCRIPTORS, OpenedCgroup
from jobmaster.host.cgroup.tree import CgroupTree, LimitWriteError
from jobmaster.host.process import is_dying
from jobmaster.job.cause import Death, Exited, Signalled
from jobmaster.job.identifier import JobId
from jobmaster.job.record import LimitReport
from jobmaster.job.specification import JobSpecification
from jobmaster.launcher.packets import close_all
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.run.child import (
    Child,
    ChildAccount,
    ChildStatus,
    ExecFailed,
    Executed,
    Launch,
    LaunchRefused,
    NeverExecuted,
)
from jobmaster.run.execution import Spawned
from jobmaster.run.launcher import Launcher
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

WORKING_FOLDER: Final = "/"
ACQUIRE_SECONDS: Final = 10.0
"""How long the host may take to make a job's cgroup and log file."""
UNDO_SECONDS: Final = 2.0
CLEARING_SECONDS: Final = 5.0
"""How long the jobs of an earlier server may take to die at start."""
STARTERS: Final = trio.CapacityLimiter(8)
"""Threads that make cgroups and log files."""
SIGNALLERS: Final = trio.CapacityLimiter(8)
"""Threads that signal the processes of a cgroup one by one."""

EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
"""Errors of the kernel that mean "not now"."""
_LONGEST_SHOWN: Final = 255
"""Characters of a command in an error's text."""
_CORE_DUMPED: Final = 0x80
"""The bit of a wait status beside the signal (wait(2))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTerms:
    """What is the same for every job of this host.

    Attributes:
        tree: where the jobs' cgroups are made.
        limit_writes: what is written to each job's cgroup: the limits that this host enforces.
        limit_reports: every limit set, enforced or not.
        memory_max: the memory limit that is enforced, bytes.
        output_folder: where the logs are made.
        account: whom the jobs run as.
        drops_privileges: the server is root, so that jobs have to be turned into `account`.
        open_files: soft RLIMIT_NOFILE of the jobs.
    """

    tree: CgroupTree
    limit_writes: Sequence[LimitWrite]
    limit_reports: tuple[LimitReport, ...]
    memory_max: int | None
    output_folder: Path
    account: Account
    drops_privileges: bool
    open_files: int

    def launch(self, job_id: JobId, owner: str, specification: JobSpecification) -> Launch:
        """What the launcher is told of a job."""
        account = self.account
        becomes = ChildAccount(
            uid=account.uid, gid=account.gid, groups=account.groups, keeps_capabilities=account.is_root
        )
        return Launch(
            id=job_id,
            argv=specification.argv,
            environment=account.environment(job_id=job_id, client=owner),
            working_folder=WORKING_FOLDER,
            account=becomes if self.drops_privileges else None,
            open_files=self.open_files,
        )


class LocalExecution:
    """A child of the launcher and its cgroup, as `Execution` has it."""

    def __init__(self, child: Child, cgroup: OpenedCgroup, command: str, account: Account) -> None:
        self._child = child
        self._cgroup = cgroup
        self._command = command
        self._account = account

    @property
    def pid(self) -> int:
        """The main process."""
        return self._child.pid

    async def execute(self) -> None:
        """As `Execution.execute`."""
        self._child.go()
        match await self._child.wait_executed():
            case Executed():
                return
            case ExecFailed() as failure:
                raise _why_not_executed(failure, self._command, self._account)
            case NeverExecuted():
                raise HostError(f"process {self.pid} died before it executed its command")

    def has_died(self) -> bool:
        """As `Execution.has_died`."""
        return self._child.has_died()

    def is_dying(self) -> bool:
        """As `Execution.is_dying`."""
        return self._child.has_died() or is_dying(self.pid)

    async def wait_death(self) -> Death:
        """As `Execution.wait_death`."""
        return death_of(await self._child.wait_status())

    def signal_main(self, number: int) -> None:
        """As `Execution.signal_main`."""
        self._child.send_signal(number)

    async def signal_others(self, number: int) -> None:
        """As `Execution.signal_others`."""
        await run_in_thread(SIGNALLERS, self._cgroup.signal, number, self.pid, abandon=True)

    def kill(self) -> None:
        """As `Execution.kill`."""
        self._child.send_signal(9)  # where the cgroup's file fails
        self._cgroup.kill()

    def is_populated(self) -> bool:
        """As `Execution.is_populated`."""
        return self._cgroup.populated()

    def oom_kills(self) -> int:
        """As `Execution.oom_kills`."""
        events = self._cgroup.memory_events()
        return 0 if events is None else events.processes_killed

    def remove(self) -> bool:
        """As `Execution.remove`."""
        return self._cgroup.remove()

    async def close(self) -> None:
        """As `Execution.close`."""
        self._cgroup.close()
        self._child.release()
        await self._child.wait_forgotten()


def death_of(status: ChildStatus) -> Death:
    """The death that a wait status tells of (wait(2))."""
    number = status.wait_status & 0x7F
    if number == 0:
        return Exited(status.wait_status >> 8 & 0xFF)
    return Signalled(number, core_dumped=bool(status.wait_status & _CORE_DUMPED))


DESCRIPTORS_OF_JOB: Final = DESCRIPTORS + 3
"""Descriptors of a running job: its cgroup's, its pidfd, its pipe and its log."""


async def clear_leftovers(tree: CgroupTree) -> None:
    """Ends what an earlier server left in the tree, and removes its cgroups; what cannot be removed is logged."""
    left: tuple[object, ...] = ()
    with trio.move_on_after(CLEARING_SECONDS):
        while left := await run_in_thread(STARTERS, tree.sweep):  # noqa: ASYNC110  # the kernel has no event for it
            await trio.sleep(0.02)
    for path in left:
        logger.error("a process of an earlier server is stuck in %s, which is left behind", path)


class LocalHost:
    """Makes executions."""

    def __init__(self, terms: LocalTerms, launcher: Launcher) -> None:
        self.terms = terms
        self._launcher = launcher

    @property
    def limits(self) -> tuple[LimitReport, ...]:
        """As `ExecutionHost.limits`."""
        return self.terms.limit_reports

    @property
    def memory_max(self) -> int | None:
        """As `ExecutionHost.memory_max`."""
        return self.terms.memory_max

    async def spawn(self, job_id: JobId, owner: str, specification: JobSpecification) -> Spawned:
        """A held execution of a command. A caller that is cancelled leaves nothing.

        Raises:
            JobError, RequestError, HostError: it cannot be made; nothing is left.
        """
        files = await _acquire(lambda: _Files(self.terms, job_id, owner))
        try:
            launch = self.terms.launch(job_id, owner, specification)
            with _host_errors_translated():
                child = await self._launcher.start(
                    launch, cgroup=files.cgroup.folder, output_read=files.read_end, output_write=files.write_end
                )
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_SECONDS):
                await _discard(files)
            raise
        os.close(files.write_end)
        files.cgroup.close_folder()
        execution = LocalExecution(child, files.cgroup, specification.command, self.terms.account)
        return Spawned(execution=execution, log=files.log, pump=Pump(files.read_end, files.log))

    def memory_events(self, owner: str | None) -> bytes | None:
        """As `ExecutionHost.memory_events`: the counters of a cgroup sum up those below it (cgroup v2, memory.events).

        A client's folder goes with its last job. The inode number tells the next one, whose counters start anew and may
        come to the same numbers, from it.
        """
        folder = self.terms.tree.jobs if owner is None else self.terms.tree.jobs / owner
        text = read_if_offered(folder / "memory.events")
        return None if text is None else f"{folder.stat().st_ino} {text}".encode()


class _Files:
    """What a job needs of the host's file systems: all or nothing. Made in a thread."""

    def __init__(self, terms: LocalTerms, job_id: JobId, owner: str) -> None:
        with ExitStack() as undo, _host_errors_translated():
            made = terms.tree.create(owner, job_id, terms.limit_writes)
            undo.callback(_remove_soon, made.remove)
            self.cgroup = OpenedCgroup(made)
            undo.callback(self.cgroup.close)
            self.log = OutputLog(terms.output_folder / f"{job_id}.log")
            undo.callback(self.log.path.unlink, missing_ok=True)
            undo.callback(os.close, self.log.fd)
            self.read_end, self.write_end = open_pipe()
            undo.pop_all()
        self._lock = threading.Lock()
        self._is_discarded = False

    def discard(self) -> None:
        """Takes everything back, in a thread: the disk of the log is waited for last. Idempotent."""
        if self._claim():
            self._close()
            with _leftover_logged():
                _remove_soon(self.cgroup.remove)
            with _leftover_logged():
                self.log.path.unlink(missing_ok=True)

    def discard_at_once(self) -> None:
        """Takes back all that needs no disk, unless a thread is at it: the file of the log is left, and empty."""
        if self._claim():
            self._close()
            logger.error("%s of a job that did not start is left: no thread was free to remove it", self.log.path)
            with _leftover_logged():
                _remove(self.cgroup.remove)

    def _claim(self) -> bool:
        with self._lock:
            was_discarded, self._is_discarded = self._is_discarded, True
        return not was_discarded

    def _close(self) -> None:
        close_all((self.read_end, self.write_end, self.log.fd))
        self.cgroup.close()


@contextmanager
def _leftover_logged() -> Iterator[None]:
    try:
        yield
    except (OSError, CgroupError) as error:
        logger.error("something of a job that did not start is left: %s", error)  # no bug


async def _discard(files: _Files) -> None:
    """Takes files back: in a thread, or here where the caller has got none until it is cancelled."""
    try:
        with suppress(NoThread):
            await run_in_thread(STARTERS, files.discard, abandon=True)
    finally:
        files.discard_at_once()


def _remove_soon(remove: Callable[[], bool]) -> None:
    """Removes a cgroup that a process may just be leaving; in a thread."""
    pause = threading.Event()
    for _ in range(20):
        if remove():
            return
        pause.wait(0.05)
    _remove(remove)


def _remove(remove: Callable[[], bool]) -> None:
    if not remove():
        raise CgroupError("a cgroup of a job that did not start is in use, and is left behind")


async def _acquire(make: Callable[[], _Files]) -> _Files:
    """Makes files in a thread; where the caller is cancelled or out of patience, they are taken back.

    Raises:
        ServerBusy: the host did not answer in time.
    """
    making = _Making(make)
    try:
        with trio.fail_after(ACQUIRE_SECONDS):
            await run_in_thread(STARTERS, making.run, abandon=True)
            return making.take()
    except trio.TooSlowError:
        raise ServerBusy(
            f"the server's host did not make room for a new job within {ACQUIRE_SECONDS:.0f} s "
            "(does the disk of its output folder answer?); try again later"
        ) from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_SECONDS):
            await making.give_up()


class _Making:
    """Files that a thread makes for a caller, who may have left when it has made them."""

    def __init__(self, make: Callable[[], _Files]) -> None:
        self._make = make
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._is_wanted = True
        self._has_begun = False
        self._has_ended = trio.Event()
        self._made: _Files | None = None

    def run(self) -> None:
        """Makes them, in the thread."""
        with self._lock:
            if not self._is_wanted:
                return
            self._has_begun = True
        try:
            files = self._make()
            if not self._hand_over(files):
                files.discard()
        finally:
            with suppress(trio.RunFinishedError):
                self._loop.run_sync_soon(self._has_ended.set)

    def _hand_over(self, files: _Files) -> bool:
        with self._lock:
            if self._is_wanted:
                self._made = files
            return self._is_wanted

    def take(self) -> _Files:
        """What was made, the caller's from now on."""
        with self._lock:
            files, self._made = self._made, None
            self._has_ended.set()
        if files is None:
            raise AssertionError("the thread has made nothing")
        return files

    async def give_up(self) -> None:
        """Takes back what was made and not taken, and waits for a thread that is still at it."""
        with self._lock:
            self._is_wanted = False
            left, is_under_way = self._made, self._has_begun and not self._has_ended.is_set()
        if left is not None:
            await _discard(left)
        elif is_under_way:
            await self._has_ended.wait()


def _why_not_executed(failure: ExecFailed, command: str, account: Account) -> Exception:
    """What the kernel's answer to execve(2), or to the search for the command, means to the caller of Start."""
    shown = command if len(command) <= _LONGEST_SHOWN else f"{command[:_LONGEST_SHOWN]}…"
    if failure.stage not in {"lookup", "exec"}:
        return HostError(f"a job could not be prepared ({failure.stage}): {os.strerror(failure.errno)}")
    match failure.errno:
        case errno.ENOENT | errno.ENOTDIR if failure.stage == "lookup":
            where = "" if "/" in command else f" in the jobs' PATH ({SEARCH_PATH})"
            return CommandNotRunnable(f"command {shown!r} not found{where}")
        case errno.ENOENT:
            return CommandNotRunnable(
                f"command {shown!r} names an interpreter (after #! or in its ELF header) that is not found"
            )
        case errno.EACCES | errno.EPERM | errno.EISDIR:
            return CommandNotRunnable(f"command {shown!r} is not executable for the jobs' user {account.name!r}")
        case errno.ENOEXEC:
            return CommandNotRunnable(
                f"command {shown!r} is no program that this host can execute: it is for another machine, "
                "or a script without #! in its first line"
            )
        case errno.E2BIG:
            return InvalidRequest(
                "more arguments than the kernel takes: one may have 128 KiB, all together about 2 MiB", field="args"
            )
        case errno.ENAMETOOLONG:
            return InvalidRequest("command is longer than a path can be", field="command")
        case number if number in EXHAUSTED:
            return ServerBusy(f"the server's host is out of resources for a new job: {os.strerror(number)}")
        case number:
            return CommandNotRunnable(f"command {shown!r} cannot be executed: {os.strerror(number)}")


@contextmanager
def _host_errors_translated() -> Iterator[None]:
    """What a failing host means to the caller of Start."""
    try:
        yield
    except LimitWriteError as error:
        if error.errno in EXHAUSTED:
            raise _refusal(error.errno) from error
        if not error.missing:
            raise
        raise LimitNotEnforceable(
            f"the server's host no longer offers the {error.controller} controller, which the jobs' limits need"
        ) from error
    except LaunchRefused as error:
        raise _refusal(error.errno) from error
    except CgroupFileError as error:
        if error.errno in EXHAUSTED:
            raise _refusal(error.errno) from error
        raise
    except OSError as error:
        raise _refusal(error.errno) from error


def _refusal(number: int | None) -> Exception:
    words = os.strerror(number or 0)
    if number in EXHAUSTED:
        return ServerBusy(f"the server's host is out of resources for a new job: {words}")
    return HostError(f"cannot make a job: {words}")
