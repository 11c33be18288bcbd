"""The pump: bytes from a job's pipe to its log, by the kernel where it can.

Theory of operation
-------------------
The pump waits until a pipe is readable (epoll through Trio), then moves what is there with splice(2) in a worker
thread: a disk that is slow throttles the thread that writes, never the event loop. Where the file system refuses splice
(EINVAL), bytes are read and written instead. When the file cannot be written (ENOSPC, EDQUOT, EIO), the pump goes on
emptying the pipe, so that the job is not blocked; the log counts what was lost, and says when to try again.

A job has one pipe, or one for stdout and one for stderr: then whichever is readable first is moved first, one at a time.
Where it has a terminal, the pump waits for that, and a move begins by filling the pipe from it (`jobmaster.output.terminal`).
A pipe that every writer has closed is at its end. A terminal that no process has open is not: the pump goes on when somebody
writes to it again, and only `finish`, when the job's processes have died, takes it for the end.

Every operation on the pipe takes its lock in the kernel, which a thread that waits for a disk holds, and so may a
writer of the job. So none of them is done on the event loop while a move is under way; poll(2) alone takes no lock, and
tells the end of a pipe that is empty, as most are when their job ends, without a thread. A move outlives the wait for it:
its result is brought to the log by the loop whenever it comes. At the job's end a move that a disk holds up for longer
than `FINISH_SECONDS` is abandoned with both descriptors, which its thread closes; the bytes that it had found in the
pipe count as lost.

Threads: a move that takes longer than `STALL_SECONDS`, or is abandoned, no longer counts against `PUMPS` as long as its
thread is held up, so that jobs whose disk (or whose writer) holds up their pump do not keep others waiting. There is at
most one move for each job, and the jobs that leave a process behind are bounded (`jobmaster.run.leftovers`).
"""

from __future__ import annotations

import enum
import fcntl
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import trio

from jobmaster.output.dropping import PUNCHERS, Dropped, DropPlan, drop
from jobmaster.output.index import Stream
from jobmaster.output.log import OutputLog
from jobmaster.output.source import Source
from jobmaster.output.terminal import TerminalEnds, Wakes, bytes_in, fill
from jobmaster.output.transfer import PIPE_SIZE, Transfer, Transferred
from jobmaster.output.written_back import SYNCED_FROM, write_back
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

GATHER_BELOW: Final = 64 * 1024
GATHER_SECONDS: Final = 0.002
"""After a move of fewer than `GATHER_BELOW` bytes the pump lets this much time pass, so that a job that writes byte by
byte costs at most 500 wake-ups a second. The first byte after a pause is not delayed."""
FINISH_SECONDS: Final = 2.0
"""How long, at the job's end, the disk may take for what is in the pipe."""
STALL_SECONDS: Final = 1.0
PUMPS: Final = trio.CapacityLimiter(32)
"""Threads that move output, besides those that are held up."""
CLOSERS: Final = trio.CapacityLimiter(1_000)
"""Threads that close what a job's output needed, one for each job at most: closing may wait for a disk or a writer."""
IN_TRANSIT_SECONDS: Final = 0.25
"""How long what was written to a terminal may take to its other end, where the kernel brings it in a task of its own. A
terminal that no process has open any more tells its end; only for one that another job has open all of it is waited."""
IN_TRANSIT_PAUSE: Final = 0.005
RECHECK_SECONDS: Final = 1.0
"""How often a terminal that no process has open is looked at where nothing can tell that somebody writes to it again."""
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
"""Between tries where nothing could be moved: the first, and the longest of those that follow."""


def open_pipe() -> tuple[int, int]:
    """A pipe for a job's output: its non-blocking read end for the pump, its write end for the job.

    The job can be PIPE_SIZE ahead of the pump, where the kernel grants that (fs.pipe-max-size is 1 MiB by default).
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    with suppress(OSError):  # EPERM above the user's pipe quota: the default of 64 KiB works as well, slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read_end, write_end


class Pump:
    """Owns the read ends of a job's pipes and the files of its log.

    `run`, `finish` and `close` it, in this order; or `hand_over` instead of `finish`, where another server goes on.
    """

    def __init__(
        self, pipe: int, log: OutputLog, *, stderr: int | None = None, terminal: TerminalEnds | None = None
    ) -> None:
        """Takes over the descriptors.

        Args:
            pipe: of stdout, or of both.
            log: where to.
            stderr: the pipe of stderr, where that has one of its own.
            terminal: what fills the pipe, where that is a terminal.
        """
        if stderr is None:
            self._sources: tuple[Source, ...] = (Source(pipe, Stream.BOTH, terminal),)
        else:
            self._sources = (Source(pipe, Stream.STDOUT), Source(stderr, Stream.STDERR))
        self._log = log
        self._work: Work | None = None
        self._turn = trio.Lock()
        self._splice_works = True
        self._is_finished = False
        """Whether the descriptors are to be closed: after `finish` or `hand_over`."""
        self._is_log_left = False
        self._left_source: Source | None = None
        """What was left to a thread, to be closed by it."""

    async def run(self) -> None:
        """Pumps until every writer has closed the pipes; from a terminal until it is cancelled."""
        if len(self._sources) == 1:
            await self._run(self._sources[0])
            return
        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(self._run, source)

    async def _run(self, source: Source) -> None:
        with closing(News(source)) as news:
            while True:
                await news.wait()
                moved = await self._move_with_retries(source)
                if source.is_at_end and source.terminal is None:
                    return
                if moved is not None and moved < GATHER_BELOW:
                    await trio.sleep(GATHER_SECONDS)

    async def _move_with_retries(self, source: Source) -> int | None:
        """As `_move_some`, tried until something could be: what told of new bytes may tell of them only once."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._move_some(source)
            except (NoThread, NotRead):
                await trio.sleep(pause)
                pause = min(pause * 2, LAST_PAUSE)

    async def finish(self) -> None:
        """Moves what is in the pipes now, and counts what cannot be moved as lost; nothing waits for a writer.

        Takes at most twice `FINISH_SECONDS`; where it is cancelled, what is left is counted all the same. To be called
        once, and `close` after it.
        """
        for source in self._sources:
            source.is_at_end = False  # a job that had opened the read end too could make new writers of it
        try:
            with trio.move_on_after(FINISH_SECONDS):
                for source in self._sources:
                    await self._move_rest(source)
        finally:
            if self._work is not None and (found := self._work.abandon()) is not None:
                self._leave(self._work)
                self._log.lose(found, left_in_pipe=True)
            self._is_finished = True
            await self._count_rest()  # noqa: ASYNC102  # shields itself

    async def _count_rest(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_SECONDS), suppress(OSError):
            for source in self._sources:
                if source is self._left_source:
                    self._log.lose(await _in_closer(source.empty_terminal))
                elif not source.is_at_end:
                    left = await _in_closer(source.take_left)
                    self._log.lose(left.in_pipe, left_in_pipe=True)
                    self._log.lose(left.taken)

    async def hand_over(self) -> None:
        """Waits for a move that is under way, and begins no other; what is in the pipes stays there.

        A move that a disk holds up is left to its thread. Takes at most `FINISH_SECONDS`. `close` follows.
        """
        try:
            if self._work is not None:
                with trio.move_on_after(FINISH_SECONDS):
                    await self._work.done.wait()
        finally:
            if self._work is not None and self._work.abandon() is not None:
                self._leave(self._work)
            self._is_finished = True

    def _leave(self, work: Work) -> None:
        self._is_log_left = True
        self._left_source = work.source

    async def _move_rest(self, source: Source) -> None:
        in_transit_until = trio.current_time() + (0.0 if source.terminal is None else IN_TRANSIT_SECONDS)
        while not source.is_at_end:
            try:
                if await self._move_some(source) is None:
                    if trio.current_time() >= in_transit_until:
                        return
                    await trio.sleep(
                        IN_TRANSIT_PAUSE
                    )  # no event tells of the end where a server has begun to wait late
            except (NoThread, NotRead):  # for now
                await trio.sleep(FIRST_PAUSE)

    async def close(self) -> None:
        """Closes the pipes and the log's files, where no thread does; others may hold a pipe up, but not us. Idempotent.

        The kernel takes the pipe's lock for the last descriptor of its read end. Any process that can write to the pipe
        can hold that lock, so everybody else who has a descriptor of it closes that before.
        """
        if self._is_finished:
            self._is_finished = False
            pipes = [fd for source in self._sources if source is not self._left_source for fd in source.give_up()]
            log = None if self._is_log_left else self._log
            if pipes or log is not None:
                await _close_in_time(pipes, log)

    async def _move_some(self, source: Source) -> int | None:
        """Moves some bytes: how many, 0 when every writer has closed, None when the pipe is empty for now.

        A wait that is cancelled leaves the move to go on; the next call waits for that one.

        Raises:
            NoThread, NotRead: nothing was moved.
        """
        async with self._turn:
            if self._work is not None and self._work.source is not source:
                await self._see_through(self._work)
            if self._work is None:
                await self._drop_excess()
                if source.is_spent():
                    source.is_at_end = True
                    return 0
            while (move := self._work) is None:
                await self._begin(Move(source, self._log, splice=self._splice_works))
            await self._see_through(move)
            assert isinstance(move, Move)  # noqa: S101  # for the type checker
            if move.result is None:
                raise NotRead from move.error
            return move.result.taken

    async def _drop_excess(self) -> None:
        while (plan := self._log.plan_drop()) is not None:
            drop = Drop(self._log, plan)
            try:
                await self._begin(drop)
            finally:
                if self._work is not drop:  # no thread took it: nothing is dropped
                    self._log.record_drop(plan, Dropped())
            if self._work is drop:
                await self._see_through(drop)

    async def _see_through(self, work: Work) -> None:
        if not work.done.is_set():
            work.count_apart()
            await work.done.wait()
        self._work = None
        if isinstance(work, Move) and work.result is not None:
            self._splice_works = work.result.splice_works
            work.source.is_at_end = work.result.taken == 0
            work.source.may_have_more = work.has_left_some

    async def _begin(self, work: Work) -> None:
        self._work = work
        try:
            with trio.move_on_after(STALL_SECONDS):
                await run_in_thread(work.limiter, work.run, abandon=True)
        finally:
            if work.withdraw():  # no thread took it
                self._work = None


class News:
    """What tells one task of new bytes in a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wakes: Wakes | None = None

    async def wait(self) -> None:
        """Returns when there may be some."""
        source = self._source
        if source.may_have_more:
            return
        if source.terminal is None or not source.is_at_end:
            await trio.lowlevel.wait_readable(source.told_by)
            return
        try:
            wakes = self._wakes = self._wakes or Wakes(source.terminal.master)
        except OSError:  # too many open files: the terminal is looked at all the same
            await trio.sleep(RECHECK_SECONDS)
            return
        await trio.lowlevel.wait_readable(wakes)
        wakes.take()

    def close(self) -> None:
        """Closes what it has opened."""
        if self._wakes is not None:
            self._wakes.close()


class NotRead(Exception):
    """The pipe could not be read, for want of memory, or by a bug."""


class Work(ABC):
    """What a worker thread does to a log; the event loop brings its result to the log.

    Attributes:
        done: set when the result is in the log.
        limiter: of its threads.
        source: the pipe that it needs, if any.
    """

    source: Source | None = None

    def __init__(self, log: OutputLog, limiter: trio.CapacityLimiter) -> None:
        self.done = trio.Event()
        self.limiter = limiter
        self._log = log
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._step = _Step.WAITING
        self._is_apart = False
        self._found = 0

    # --- in the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works, unless it was withdrawn meanwhile."""
        if not self._enter(_Step.WORKING, only_from=_Step.WAITING):
            return
        try:
            self._work()
        except Exception:  # a bug, which leaves it without a result: the pump goes on, and the descriptors are closed
            logger.exception("a bug in what is done to %s", self._log.path)
        is_wanted = self._enter(_Step.DONE, only_from=_Step.WORKING)
        if not is_wanted:
            _close(() if self.source is None else self.source.give_up(), self._log)
        with suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(self._report if is_wanted else self._count_again)

    @abstractmethod
    def _work(self) -> None: ...

    def _enter(self, step: _Step, *, only_from: _Step) -> bool:
        with self._lock:
            if self._step is not only_from:
                return False
            self._step = step
            return True

    # --- on the event loop --------------------------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """True where no thread has begun it; none will."""
        return self._enter(_Step.ABANDONED, only_from=_Step.WAITING)

    def abandon(self) -> int | None:
        """Leaves the pipe and the log's file to the thread, which closes them when the disk lets it.

        Returns the bytes that it had found in the pipe, or None where it has just ended and nothing is abandoned.
        """
        if self._enter(_Step.ABANDONED, only_from=_Step.WORKING):
            self.count_apart()
            return self._found
        self._report()
        return None

    def count_apart(self) -> None:
        """From now on until it ends, its thread is one more than its limiter allows. Idempotent."""
        if not self._is_apart:
            self._is_apart = True
            self.limiter.total_tokens += 1

    def _count_again(self) -> None:
        if self._is_apart:
            self._is_apart = False
            self.limiter.total_tokens -= 1

    def _report(self) -> None:
        if self.done.is_set():
            return
        self._count_again()
        self._record()
        self.done.set()

    @abstractmethod
    def _record(self) -> None: ...


class Move(Work):
    """One transfer of bytes from a pipe.

    Attributes:
        result: None where the pipe could not be read; nothing was moved.
        error: why.
        has_left_some: there are more bytes in a pipe of which nothing will tell.
    """

    source: Source
    has_left_some = False

    def __init__(self, source: Source, log: OutputLog, *, splice: bool) -> None:
        super().__init__(log, PUMPS)
        self.error: OSError | MemoryError | None = None
        self.result: Transferred | None = None
        self.source = source
        self._transfer = Transfer(source.pipe, source.stream, log, log.plan(), splice=splice)

    def _work(self) -> None:
        terminal = self.source.terminal
        try:
            is_closed = terminal is not None and fill(terminal)
            with suppress(OSError):
                self._found = bytes_in(self.source.pipe)
            result = self._transfer.run(self._found)
            self.result = replace(result, taken=0) if is_closed and result.taken is None else result
        except (OSError, MemoryError) as error:
            self.error = error
        if terminal is not None:
            with suppress(OSError):
                self.has_left_some = bytes_in(self.source.pipe) > 0

    def _record(self) -> None:
        if self.result is not None:
            self._log.record(self.result)


class Drop(Work):
    """The dropping of one range."""

    def __init__(self, log: OutputLog, plan: DropPlan) -> None:
        super().__init__(log, PUNCHERS)
        self._plan = plan
        self._dropped = Dropped()

    def _work(self) -> None:
        with suppress(OSError, MemoryError):  # then it is not dropped
            self._dropped = drop(self._log, self._plan)

    def abandon(self) -> int | None:
        """As of any work. What the thread may still do counts as done: nobody is told of those bytes any more."""
        found = super().abandon()
        if found is not None:
            self._log.record_drop(self._plan, Dropped(count=self._plan.end - self._plan.begin))
        return found

    def _record(self) -> None:
        self._log.record_drop(self._plan, self._dropped)


class _Step(enum.Enum):
    WAITING = enum.auto()
    WORKING = enum.auto()
    DONE = enum.auto()
    ABANDONED = enum.auto()


async def _in_closer(function: Callable[..., T], *args: Any) -> T:
    """Runs what takes the lock of a pipe; on the event loop only where there is no thread to be had."""
    try:
        return await run_in_thread(CLOSERS, function, *args, abandon=True)
    except NoThread:
        return function(*args)


async def _close_in_time(pipes: Iterable[int], log: OutputLog | None) -> None:
    """Closes in a thread, which is waited for; also where the caller is cancelled, since nobody else will close them."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_SECONDS) as waiting:
        loop = trio.lowlevel.current_trio_token()
        try:
            await run_in_thread(CLOSERS, _close_and_write_back, pipes, log, loop, waiting.cancel, abandon=True)
        except NoThread:
            _close(pipes, log)


def _close_and_write_back(
    pipes: Iterable[int], log: OutputLog | None, loop: trio.lowlevel.TrioToken, on_closed: Callable[[], None]
) -> None:
    fd = None
    if log is not None and log.sealed and log.kept >= SYNCED_FROM:
        with suppress(OSError):
            fd = os.dup(log.fd)
    _close(pipes, log)
    if log is not None and fd is not None:
        with suppress(trio.RunFinishedError):
            loop.run_sync_soon(on_closed)
        write_back(fd, log.path, log.size)


def _close(pipes: Iterable[int], log: OutputLog | None) -> None:
    for pipe in pipes:
        with suppress(OSError):
            os.close(pipe)
    try:
        if log is not None:
            log.close()
    except OSError as error:  # a network file system says so late that it did not keep what it had taken
        logger.error("the output of a job may be incomplete: %s", error.strerror)
