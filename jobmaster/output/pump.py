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
tells the end of a pipe that is empty, as most are when their job ends, without a thread. What counts or closes waits for a
thread where there is none (`jobmaster.threads`). A move outlives the wait for it:
its result is brought to the log by the loop whenever it comes. At the job's end a move that a disk holds up for longer
than `FINISH_SECONDS` is abandoned with both descriptors, which its thread closes; the bytes that it had found in the
pipe count as lost.

Threads: a move that takes longer than `STALL_SECONDS`, or is abandoned, no longer counts against `PUMPS` as long as its
thread is held up, so that jobs whose disk (or whose writer) holds up their pump do not keep others waiting; nor do those of
one client until then, which have a share of `PUMPS` at most. There is at most one move for each job. The job whose pipe
holds up a thread need not live: another one, to which the pipe was passed on, can have its lock. So the jobs that leave a
process or a thread behind are bounded (`jobmaster.run.leftovers`).
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final, TypeVar

import trio

from jobmaster.output.closing import CLOSERS, close_in_time
from jobmaster.output.dropping import Dropped
from jobmaster.output.index import Stream
from jobmaster.output.log import OutputLog
from jobmaster.output.moving import Drop, Move, Work, shared
from jobmaster.output.source import Source
from jobmaster.output.terminal import TerminalEnds, Wakes
from jobmaster.output.transfer import PIPE_SIZE
from jobmaster.threads import FIRST_PAUSE, LAST_PAUSE, LeftThreads, NoThread, run_at_last, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

GATHER_BELOW: Final = 64 * 1024
GATHER_SECONDS: Final = 0.002
"""After a move of fewer than `GATHER_BELOW` bytes the pump lets this much time pass, so that a job that writes byte by
byte costs at most 500 wake-ups a second. The first byte after a pause is not delayed."""
FINISH_SECONDS: Final = 2.0
"""How long, at the job's end, the disk may take for what is in the pipe."""
STALL_SECONDS: Final = 1.0
IN_TRANSIT_SECONDS: Final = 0.25
"""How long what was written to a terminal may take to its other end, where the kernel brings it in a task of its own. A
terminal that no process has open any more tells its end; only for one that another job has open all of it is waited."""
IN_TRANSIT_PAUSE: Final = 0.005
RECHECK_SECONDS: Final = 1.0
"""How often a terminal that no process has open is looked at where nothing can tell that somebody writes to it again."""


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

    Attributes:
        left_threads: those of its threads that are left when it ends.
        share: bounds the threads that move output at a time, of all pumps that have it, while their jobs live. None: nothing does.
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
        self.left_threads = LeftThreads()
        self.share: trio.CapacityLimiter | None = None
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
        self.share = None  # what is in the pipe now has so much time, whatever the client's other jobs wait for
        for source in self._sources:
            source.is_at_end = False  # a job that had opened the read end too could make new writers of it
        try:
            with trio.move_on_after(FINISH_SECONDS):
                for source in self._sources:
                    await self._move_rest(source)
        finally:
            if self._work is not None and (found := self._work.abandon(self.left_threads)) is not None:
                self._leave(self._work)
                self._log.lose(found, left_in_pipe=True)
                if not found and self._work.source is not None:  # a move begins only where there is something
                    self._say_uncounted()
            self._is_finished = True
            await self._count_rest()  # noqa: ASYNC102  # shields itself

    async def _count_rest(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_SECONDS) as scope, suppress(OSError):
            for source in self._sources:
                if source is self._left_source:
                    self._log.lose(await self._in_closer(source.empty_terminal))
                elif not source.is_at_end:
                    left = await self._in_closer(source.take_left)
                    self._log.lose(left.in_pipe, left_in_pipe=True)
                    self._log.lose(left.taken)
        if scope.cancelled_caught:
            self._say_uncounted()

    def _say_uncounted(self) -> None:
        logger.warning("%s: nobody could tell in time how much of the output was left in its pipe", self._log.path)

    async def hand_over(self) -> None:
        """Waits for a move that is under way, and begins no other; what is in the pipes stays there.

        A move that a disk holds up is left to its thread. Takes at most `FINISH_SECONDS`. `close` follows.
        """
        try:
            if self._work is not None:
                with trio.move_on_after(FINISH_SECONDS):
                    await self._work.done.wait()
        finally:
            if self._work is not None and self._work.abandon(self.left_threads) is not None:
                self._leave(self._work)
            self._is_finished = True

    async def _in_closer(self, function: Callable[..., T], *args: Any) -> T:
        """Runs what takes the lock of a pipe."""
        with self.left_threads.counted(CLOSERS) as thread:
            return await run_at_last(CLOSERS, thread.run, function, *args)

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
                await close_in_time(pipes, log, self.left_threads)

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
            except BaseException:  # cancelled, or there is no thread: it is planned again before the next move
                if self._work is not drop:
                    self._log.withdraw_drop(plan)
                raise
            if self._work is drop:
                await self._see_through(drop)
            else:  # threads were too long in coming
                self._log.record_drop(plan, Dropped())

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
            async with shared(self.share):
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
