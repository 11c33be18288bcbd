"""The pump: bytes from a job's pipe to its log, by the kernel where it can.

Theory of operation
-------------------
The pump waits until the pipe is readable (epoll through Trio), then moves what is there with splice(2) in a worker
thread: a disk that is slow throttles the thread that writes, never the event loop. Where the file system refuses splice
(EINVAL), bytes are read and written instead. When the file cannot be written at all (ENOSPC, EDQUOT, EIO), the pump
goes on emptying the pipe, so that the job is not blocked, and the log counts what was lost.

Every operation on the pipe takes its lock in the kernel, which a thread that waits for a disk holds, and so may a
writer of the job. So none of them is done on the event loop while a move is under way. A move outlives the wait for it:
its result is brought to the log by the loop whenever it comes. At the job's end a move that a disk holds up for longer
than `FINISH_SECONDS` is abandoned with both descriptors, which its thread closes; the bytes that it had found in the
pipe count as lost.

Threads: a move that takes longer than `STALL_SECONDS`, or is abandoned, no longer counts against `PUMPS` as long as its
thread is held up, so that jobs whose disk (or whose writer) holds up their pump do not keep others waiting. There is at
most one move for each job, and the jobs that leave a process behind are bounded (`jobmaster.run.leftovers`).
"""

from __future__ import annotations

import enum
import errno
import fcntl
import logging
import os
import struct
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import trio

from jobmaster.output.log import OutputLog
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

PIPE_SIZE: Final = 1024 * 1024
"""Bytes the job can be ahead of the pump, where the kernel grants them (fs.pipe-max-size is 1 MiB by default)."""
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
_FIRST_PAUSE: Final = 0.05
_LAST_PAUSE: Final = 1.0


def open_pipe() -> tuple[int, int]:
    """A pipe for a job's output: its non-blocking read end for the pump, its write end for the job."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    with suppress(OSError):  # EPERM above the user's pipe quota: the default of 64 KiB works as well, slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read_end, write_end


class Pump:
    """Owns the read end of a job's pipe and the descriptor of its log.

    `run`, `finish` and `close` it, in this order; or `hand_over` instead of `finish`, where another server goes on.
    """

    def __init__(self, pipe: int, log: OutputLog) -> None:
        self._pipe = pipe
        self._log = log
        self._move: Move | None = None
        self._splice_works = True
        self._is_at_end = False
        """Whether every writer has closed the pipe, and it was empty then."""
        self._is_ours = False
        """Whether the descriptors are ours to close: after `finish`, and where no move was abandoned with them."""

    async def run(self) -> None:
        """Pumps until every writer has closed the pipe."""
        pause = _FIRST_PAUSE
        while True:
            await trio.lowlevel.wait_readable(self._pipe)
            try:
                moved = await self._move_some()
            except (NoThread, NotRead):
                await trio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            if self._is_at_end:
                return
            if moved is not None and moved < GATHER_BELOW:
                await trio.sleep(GATHER_SECONDS)

    async def finish(self) -> None:
        """Moves what is in the pipe now, and counts what cannot be moved as lost; nothing waits for a writer.

        Takes at most twice `FINISH_SECONDS`. To be called once, and `close` after it.
        """
        self._is_at_end = False  # a job that had opened the read end too could make new writers of it
        with trio.move_on_after(FINISH_SECONDS):
            await self._move_rest()
        if self._move is not None and (found := self._move.abandon()) is not None:
            self._log.lose(found, left_in_pipe=True)
            return
        self._is_ours = True
        if self._is_at_end:
            return
        with trio.move_on_after(FINISH_SECONDS), suppress(OSError):
            self._log.lose(await _in_closer(_bytes_in, self._pipe), left_in_pipe=True)

    async def hand_over(self) -> None:
        """Waits for a move that is under way, and begins no other; what is in the pipe stays there.

        A move that a disk holds up is left to its thread. Takes at most `FINISH_SECONDS`. `close` follows.
        """
        if self._move is not None:
            with trio.move_on_after(FINISH_SECONDS):
                await self._move.done.wait()
            if self._move.abandon() is not None:
                return
        self._is_ours = True

    async def _move_rest(self) -> None:
        while not self._is_at_end:
            try:
                if await self._move_some() is None:
                    return
            except (NoThread, NotRead):  # for now
                await trio.sleep(_FIRST_PAUSE)

    async def close(self) -> None:
        """Closes the pipe and the log's file, where no thread does; others may hold the pipe up, but not us. Idempotent.

        The kernel takes the pipe's lock for the last descriptor of its read end. Any process that can write to the pipe
        can hold that lock, so everybody else who has a descriptor of it closes that before.
        """
        if self._is_ours:
            self._is_ours = False
            with trio.move_on_after(FINISH_SECONDS):
                await _in_closer(_close, self._pipe, self._log.fd)

    async def _move_some(self) -> int | None:
        """Moves some bytes: how many, 0 when every writer has closed, None when the pipe is empty for now.

        A wait that is cancelled leaves the move to go on; the next call waits for that one.

        Raises:
            NoThread, NotRead: nothing was moved.
        """
        while self._move is None:
            await self._begin_move()
        move = self._move
        if not move.done.is_set():
            move.count_apart()
            await move.done.wait()
        self._move = None
        self._splice_works = move.splice_works
        if move.error is not None:
            raise NotRead from move.error
        self._is_at_end = move.moved == 0
        return move.moved

    async def _begin_move(self) -> None:
        move = Move(self._pipe, self._log, splice=self._splice_works)
        self._move = move
        try:
            with trio.move_on_after(STALL_SECONDS):
                await run_in_thread(PUMPS, move.run, abandon=True)
        finally:
            if move.withdraw():  # no thread took it
                self._move = None


class NotRead(Exception):
    """The pipe could not be read, for want of memory."""


class Move:
    """One move of bytes by a worker thread; the event loop brings its result to the log.

    Attributes:
        error: why the pipe could not be read; nothing was moved.
        done: set when the result is in the log.
        moved: bytes taken from the pipe; 0 where every writer has closed it, None where it was empty.
        splice_works: False once the file system has refused splice(2).
    """

    def __init__(self, pipe: int, log: OutputLog, *, splice: bool) -> None:
        self.done = trio.Event()
        self.error: OSError | MemoryError | None = None
        self.moved: int | None = None
        self.splice_works = splice
        self._pipe = pipe
        self._log = log
        self._offset = log.size
        self._is_log_writable = log.lost == 0
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._step = _Step.WAITING
        self._is_apart = False
        self._found = 0
        self._lost = 0

    # --- in the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Moves, unless it was withdrawn meanwhile."""
        if not self._enter(_Step.MOVING, only_from=_Step.WAITING):
            return
        with suppress(OSError):
            self._found = _bytes_in(self._pipe)
        try:
            self.moved = self._transfer()
        except (OSError, MemoryError) as error:
            self.error = error
        is_wanted = self._enter(_Step.MOVED, only_from=_Step.MOVING)
        if not is_wanted:
            _close(self._pipe, self._log.fd)
        with suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(self._report if is_wanted else self._count_again)

    def _enter(self, step: _Step, *, only_from: _Step) -> bool:
        with self._lock:
            if self._step is not only_from:
                return False
            self._step = step
            return True

    def _transfer(self) -> int | None:
        if not self._is_log_writable:
            data = self._read()
            self._lost = len(data or b"")
            return None if data is None else len(data)
        if not self.splice_works:
            return self._copy()
        try:
            return os.splice(self._pipe, self._log.fd, PIPE_SIZE, offset_dst=self._offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                self.splice_works = False
            return self._copy()  # the error, if it lasts, shows where the lost bytes can be counted

    def _copy(self) -> int | None:
        data = self._read()
        if not data:
            return None if data is None else 0
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._log.fd, memoryview(data)[written:], self._offset + written)
        except OSError:
            self._lost = len(data) - written
        return len(data)

    def _read(self) -> bytes | None:
        try:
            return os.read(self._pipe, PIPE_SIZE)
        except BlockingIOError:
            return None

    # --- on the event loop --------------------------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """True where no thread has begun it; none will."""
        return self._enter(_Step.ABANDONED, only_from=_Step.WAITING)

    def abandon(self) -> int | None:
        """Leaves the pipe and the log's file to the thread, which closes them when the disk lets it.

        Returns the bytes that it had found in the pipe, or None where it has just ended and nothing is abandoned.
        """
        if self._enter(_Step.ABANDONED, only_from=_Step.MOVING):
            self.count_apart()
            return self._found
        self._report()
        return None

    def count_apart(self) -> None:
        """From now on until it ends, its thread is one more than `PUMPS` allows. Idempotent."""
        if not self._is_apart:
            self._is_apart = True
            PUMPS.total_tokens += 1

    def _count_again(self) -> None:
        if self._is_apart:
            self._is_apart = False
            PUMPS.total_tokens -= 1

    def _report(self) -> None:
        if self.done.is_set():
            return
        self._count_again()
        self._log.advance((self.moved or 0) - self._lost)
        if self._lost:
            self._log.lose(self._lost)
        self.done.set()


class _Step(enum.Enum):
    WAITING = enum.auto()
    MOVING = enum.auto()
    MOVED = enum.auto()
    ABANDONED = enum.auto()


def _bytes_in(pipe: int) -> int:
    """Bytes in a pipe now (FIONREAD of pipe(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


async def _in_closer(function: Callable[..., T], *args: int) -> T:
    """Runs what takes the lock of a pipe; on the event loop only where there is no thread to be had."""
    try:
        return await run_in_thread(CLOSERS, function, *args, abandon=True)
    except NoThread:
        return function(*args)


def _close(pipe: int, file: int) -> None:
    with suppress(OSError):
        os.close(pipe)
    try:
        os.close(file)
    except OSError as error:  # a network file system says so late that it did not keep what it had taken
        logger.error("the output of a job may be incomplete: %s", error.strerror)
