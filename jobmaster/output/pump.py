"""The pump: bytes from a job's pipe to its log, by the kernel where it can.

Waits until the pipe is readable (epoll through Trio), then moves what is there with splice(2) in a worker thread: a
disk that is slow throttles the thread that writes, never the event loop. Where the file system refuses splice
(EINVAL), bytes are read and written instead. When the file cannot be written at all (ENOSPC, EDQUOT, EIO), the pump
goes on emptying the pipe, so that the job is not blocked, and the log counts what was lost.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

import trio

from jobmaster.output.log import OutputLog

PIPE_SIZE: Final = 1024 * 1024
"""Bytes the job can be ahead of the pump, where the kernel grants them (fs.pipe-max-size is 1 MiB by default)."""
GATHER_BELOW: Final = 64 * 1024
GATHER_SECONDS: Final = 0.002
"""After a move of fewer than `GATHER_BELOW` bytes the pump lets this much time pass, so that a job that writes byte by
byte costs at most 500 wake-ups a second. The first byte after a pause is not delayed."""


def open_pipe() -> tuple[int, int]:
    """A pipe for a job's output: its non-blocking read end for the pump, its write end for the job."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    with suppress(OSError):  # EPERM above the user's pipe quota: the default of 64 KiB works as well, slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read_end, write_end


class Pump:
    """Owns the read end of a job's pipe."""

    def __init__(self, pipe: int, log: OutputLog) -> None:
        self._pipe = pipe
        self._log = log
        self._splice_works = True

    async def run(self) -> None:
        """Pumps until every writer has closed the pipe."""
        while (moved := await self._move()) != 0:
            if moved is not None and moved < GATHER_BELOW:
                await trio.sleep(GATHER_SECONDS)
            await trio.lowlevel.wait_readable(self._pipe)

    async def drain(self) -> None:
        """Moves what is in the pipe now, without waiting for more."""
        while await self._move() not in (0, None):
            pass

    def close(self) -> None:
        """Lets go of the pipe."""
        os.close(self._pipe)

    async def _move(self) -> int | None:
        """Moves some bytes: how many, 0 when every writer has closed, None when the pipe is empty for now.

        A cancelled pump loses nothing: the thread is waited for, and the log advances before the next checkpoint.
        """
        start = self._log.size
        if self._log.lost:
            moved = await trio.to_thread.run_sync(self._throw_away)
            self._log.lose(moved or 0)
            return moved
        try:
            moved = await trio.to_thread.run_sync(self._move_once, start)
        except _LogNotWritable as failure:
            self._log.advance(failure.written)
            self._log.lose(failure.lost)
            return failure.written + failure.lost
        self._log.advance(moved or 0)
        return moved

    def _move_once(self, offset: int) -> int | None:
        if not self._splice_works:
            return self._copy(offset)
        try:
            return os.splice(self._pipe, self._log.fd, PIPE_SIZE, offset_dst=offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._splice_works = False
            return self._copy(offset)  # the error, if it lasts, shows where the lost bytes can be counted

    def _copy(self, offset: int) -> int | None:
        data = self._read()
        if not data:
            return None if data is None else 0
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._log.fd, memoryview(data)[written:], offset + written)
        except OSError:
            raise _LogNotWritable(written=written, lost=len(data) - written) from None
        return written

    def _throw_away(self) -> int | None:
        data = self._read()
        return None if data is None else len(data)

    def _read(self) -> bytes | None:
        try:
            return os.read(self._pipe, PIPE_SIZE)
        except BlockingIOError:
            return None


class _LogNotWritable(Exception):
    def __init__(self, *, written: int, lost: int) -> None:
        super().__init__(written, lost)
        self.written = written
        self.lost = lost
