"""What a job needs of the host's file systems (cgroup, log, pipe): acquired in a thread, all or nothing.

A disk or the kernel may hold the thread up for longer than its caller waits. Then the caller leaves, and whoever has the
files last takes them back: the thread, when it has made them, or the caller, when it finds them made.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import trio

from jobmaster.errors import CgroupError, ServerBusy
from jobmaster.host.cgroup.interface import GONE, CgroupFileError
from jobmaster.host.cgroup.limits import LimitWrite
from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.identifier import JobId, parse_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.terminal import Terminal
from jobmaster.launcher.packets import close_all
from jobmaster.output.cap import Cap
from jobmaster.output.files import unlink_output
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import open_pipe
from jobmaster.run.start_errors import host_errors_translated
from jobmaster.run.stdin import open_input_pipe, open_queue
from jobmaster.run.terminal import open_terminal
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

ACQUIRE_SECONDS: Final = 10.0
"""How long the host may take to make a job's cgroup and log file."""
MOST_EMPTY: Final = 10_000
"""Empty files of output that one start of a server looks at."""
UNDO_SECONDS: Final = 0.5
"""How long a Start that is given up waits for what was made for it to be undone; as long an upgrade may wait for that."""
STARTERS: Final = trio.CapacityLimiter(8)
"""Threads that make cgroups and log files."""


def output_path(folder: Path, job_id: JobId) -> Path:
    """Where the output of a job is kept."""
    return folder / f"{job_id}.log"


def reopened_log(path: Path, record: JobRecord) -> OutputLog:
    """The log of a job of an earlier server, as it was recorded.

    Raises:
        OSError: as `OutputLog.reopen`.
    """
    cap = Cap(record.output_max, ends_job=record.ends_when_full) if record.output_max else None
    return OutputLog.reopen(path, lost=record.output_bytes_lost, dropped=record.output_bytes_dropped, cap=cap)


def empty_outputs(folder: Path) -> list[JobId]:
    """The jobs whose file of output is empty, `MOST_EMPTY` of them at most.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if entry.name.endswith(".log") and _is_empty(entry))
        ids = (parse_job_id(name.removesuffix(".log")) for name in names)
        return list(islice((job_id for job_id in ids if job_id is not None), MOST_EMPTY))


def _is_empty(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


class Files(Protocol):
    """What a thread acquires for a job."""

    def discard(self) -> None:
        """Takes everything back, in a thread. Idempotent."""

    def discard_at_once(self) -> None:
        """Takes back all that needs no disk, unless a thread is at it."""


F = TypeVar("F", bound=Files)


class StdinFiles(NamedTuple):
    """What a job's input needs: the job's end of its pipe, the server's, and the queue."""

    read_end: int
    write_end: int
    queue: int

    @staticmethod
    def open() -> StdinFiles:
        """Makes them.

        Raises:
            OSError: they cannot be made; none is left.
        """
        queue = open_queue()
        try:
            return StdinFiles(*open_input_pipe(), queue)
        except OSError:
            os.close(queue)
            raise


class TerminalFiles(NamedTuple):
    """What a job's terminal needs: its master, once for the output and once for the input; the job's end; the queue."""

    master: int
    typed: int
    slave: int
    queue: int

    @staticmethod
    def open(terminal: Terminal) -> TerminalFiles:
        """Makes them.

        Raises:
            OSError: they cannot be made; none is left.
        """
        made: list[int] = []
        try:
            made += open_terminal(terminal.window)
            master, slave = made
            made.append(os.dup(master))
            made.append(open_queue())
        except OSError:
            close_all(made)
            raise
        return TerminalFiles(master=master, typed=made[2], slave=slave, queue=made[3])


class AdoptedFiles:
    """What a server needs of a job that an earlier one made. Opened in a thread.

    A cgroup that is gone, with all its processes, is made anew: then there is nothing in it, and what it counts is not the
    job's (`is_anew`).
    """

    def __init__(
        self, tree: CgroupTree, output_folder: Path, record: JobRecord, *, terminal: int | None = None
    ) -> None:
        with ExitStack() as undo, host_errors_translated():
            self.cgroup, self.is_anew = _opened(tree, record.owner, record.id)
            undo.callback(self.cgroup.close)
            self.cgroup.close_folder()
            self.log = reopened_log(output_path(output_folder, record.id), record)
            undo.callback(self.log.close)
            self.typed = None if terminal is None else os.dup(terminal)
            undo.pop_all()

    def discard(self) -> None:
        """Closes everything. Idempotent."""
        self.cgroup.close()
        typed, self.typed = self.typed, None
        close_all(() if typed is None else (typed,))
        with suppress(OSError):  # nothing was written by it
            self.log.close()

    def discard_at_once(self) -> None:
        """As `discard`."""
        self.discard()


def _opened(tree: CgroupTree, owner: str, job_id: JobId) -> tuple[OpenedCgroup, bool]:
    """The cgroup, and whether it is made anew."""
    try:
        return OpenedCgroup(tree.existing(owner, job_id)), False
    except CgroupFileError as error:
        if error.errno not in GONE:
            raise
        return OpenedCgroup(tree.create(owner, job_id, ())), True


class JobFiles:
    """What a job needs of the host's file systems: all or nothing. Made in a thread."""

    def __init__(
        self,
        tree: CgroupTree,
        limits: Sequence[LimitWrite],
        output_folder: Path,
        *,
        job_id: JobId,
        owner: str,
        has_stdin: bool = False,
        has_stderr: bool = False,
        terminal: Terminal | None = None,
        cap: Cap | None = None,
        make_folder: Callable[[], None] = lambda: None,
        unmake_folder: Callable[[], None] = lambda: None,
    ) -> None:
        self._unmake_folder = unmake_folder
        with ExitStack() as undo, host_errors_translated():
            made = tree.create(owner, job_id, limits)
            undo.callback(_remove_soon, made.remove)
            self.cgroup = OpenedCgroup(made)
            undo.callback(self.cgroup.close)
            make_folder()  # first of all that needs a disk: where that has no room, this says so
            undo.callback(unmake_folder)
            self.log = OutputLog(output_path(output_folder, job_id), cap)
            undo.callback(unlink_output, self.log.path)
            undo.callback(self.log.close)
            self.read_end, self.write_end = open_pipe()
            undo.callback(close_all, (self.read_end, self.write_end))
            self.stderr = open_pipe() if has_stderr else None
            undo.callback(close_all, self.stderr or ())
            self.terminal = None if terminal is None else TerminalFiles.open(terminal)
            undo.callback(close_all, self.terminal or ())
            self.stdin = StdinFiles.open() if has_stdin and terminal is None else None
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
                unlink_output(self.log.path)
            self._unmake_folder()

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
        more = (*(self.stdin or ()), *(self.stderr or ()), *(self.terminal or ()))
        close_all((self.read_end, self.write_end, *more))
        with suppress(OSError):  # nothing was written by it
            self.log.close()
        self.cgroup.close()


@contextmanager
def _leftover_logged() -> Iterator[None]:
    try:
        yield
    except (OSError, CgroupError) as error:
        logger.error("something of a job that did not start is left: %s", error)  # no bug


async def discard(files: Files) -> None:
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


class HostTooSlow(ServerBusy):
    """The host did not answer in time: more of that time is not to be spent on one job."""


async def acquire(make: Callable[[], F]) -> F:
    """Makes files in a thread; where the caller is cancelled or out of patience, they are taken back.

    Raises:
        HostTooSlow: the host did not answer in time.
    """
    making = _Making(make)
    try:
        with trio.fail_after(ACQUIRE_SECONDS):
            await run_in_thread(STARTERS, making.run, abandon=True)
            return making.take()
    except trio.TooSlowError:
        raise HostTooSlow(
            f"the server's host did not make room for a new job within {ACQUIRE_SECONDS:.0f} s "
            "(does the disk of its output folder answer?); try again later"
        ) from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_SECONDS):
            await making.give_up()


class _Making(Generic[F]):
    """Files that a thread makes for a caller, who may have left when it has made them."""

    def __init__(self, make: Callable[[], F]) -> None:
        self._make = make
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._is_wanted = True
        self._has_begun = False
        self._has_ended = trio.Event()
        self._made: F | None = None

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

    def _hand_over(self, files: F) -> bool:
        with self._lock:
            if self._is_wanted:
                self._made = files
            return self._is_wanted

    def take(self) -> F:
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
            await discard(left)
        elif is_under_way:
            await self._has_ended.wait()
