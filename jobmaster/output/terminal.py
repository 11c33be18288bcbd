"""A terminal as a source of output: through a pipe of the job, so that a file takes it as it takes any other.

The kernel moves bytes from a terminal to a pipe (splice(2)), but not to a file. So each move goes from the terminal to the
pipe and from there to the file, and a server that is killed in between leaves every byte in one of the three: the launcher
keeps terminal and pipe. A kernel that splices from no terminal (Linux 5.10.0 to 5.10.6) makes the bytes pass through this
process's memory, `PIPE_BUF` at a time: those are lost where it is killed just then.

A terminal that no process has open is an error to read (EIO) and hung up to a poll (POLLHUP), for as long as that is so. It
is no end: a job that has redirected all its streams may open /dev/tty again, as programs that ask for a password do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
from contextlib import suppress
from typing import Final, NamedTuple

from jobmaster.output.transfer import PIPE_SIZE

_DRAIN: Final = 64 * 1024
MOST_READS: Final = 256
"""Of what is left in a terminal, at most: the kernel keeps some 20 KiB for one, and what comes in place of what was read is
written by others than the job, whose processes have died."""


class TerminalEnds(NamedTuple):
    """What of a terminal this side has.

    Attributes:
        master: non-blocking.
        pipe: the write end of the pipe that its output goes through.
    """

    master: int
    pipe: int


class Wakes:
    """Tells of each write to a terminal and of each close, once: an edge-triggered epoll instance.

    For a terminal that no process has open, of which a poll tells without end that it is hung up, and nothing tells that
    it is opened.
    """

    def __init__(self, master: int) -> None:
        """Ready at first, so that what was written before is looked for.

        Raises:
            OSError: there is no descriptor or memory for it.
        """
        self._epoll = select.epoll()
        try:
            self._epoll.register(master, select.EPOLLIN | select.EPOLLET)
        except OSError:
            self._epoll.close()
            raise

    def fileno(self) -> int:
        """Readable when there is something to tell."""
        return self._epoll.fileno()

    def take(self) -> None:
        """Takes what there is to tell; what comes from now on is told anew."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Closes it, not the terminal. Idempotent."""
        self._epoll.close()


def fill(terminal: TerminalEnds) -> bool:
    """Moves what the terminal has into the pipe, as far as that takes it; in a thread, since it takes the pipe's lock.

    Returns True where no process has the terminal open any more and nothing is left in it.

    Raises:
        OSError: it cannot be read; nothing is lost by that.
    """
    try:
        while _splice(terminal):  # ends with the pipe's space at the latest
            pass
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EIO:
            return True
        if error.errno == errno.EINVAL and bytes_in(terminal.pipe):  # a kernel that does not splice: these go first
            return False
        raise
    return True


def _splice(terminal: TerminalEnds) -> int:
    try:
        return os.splice(terminal.master, terminal.pipe, PIPE_SIZE, flags=os.SPLICE_F_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EINVAL or bytes_in(terminal.pipe):
            raise
    return os.write(terminal.pipe, os.read(terminal.master, select.PIPE_BUF))


def drain(terminal: TerminalEnds) -> int:
    """Takes what is left in a terminal of a job that has ended, and tells how much that was; it is not kept.

    Bounded also where another job's process goes on writing.
    """
    count = 0
    with suppress(OSError):  # EAGAIN or EIO: that was all
        for _ in range(MOST_READS):
            count += len(os.read(terminal.master, _DRAIN))
    return count


def bytes_in(pipe: int) -> int:
    """Bytes in a pipe now (FIONREAD of pipe(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)
