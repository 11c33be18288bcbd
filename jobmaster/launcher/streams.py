"""The standard streams: occupied, written without a wait, and stderr for what the launcher has to say."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK_TRIES: Final = 10
_LOCK_PAUSE: Final = 0.001
"""Seconds between them; a write takes some microseconds."""


class NonBlockingWriter:
    """Writes to a pipe, a terminal, a socket or a file, and never waits for who reads.

    poll(2) calls a terminal writable that takes one byte (n_tty_poll), and a write of more waits for the rest; a pipe may be
    filled by somebody else before it is written. O_NONBLOCK prevents both, but belongs to the open file description, which
    others have as well, a shell for one. So a terminal and a pipe are opened again, and a socket is written with
    MSG_DONTWAIT. A file is written as it is: it has a position. A terminal that is another user's, as after su(1), cannot
    be opened: for the moment of a write everybody's description of it is non-blocking, and a lock of the terminal keeps
    launchers and servers from taking each other's moment for how it was.
    """

    def __init__(self, descriptor: int) -> None:
        """Leaves the descriptor to its owner; what is opened for it is closed by `close`."""
        self._descriptor = descriptor
        try:
            self._kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        except OSError:
            self._kind = 0  # a write will say why
        self._own = _opened_again(descriptor) if self._kind in {stat.S_IFIFO, stat.S_IFCHR} else -1

    def write(self, data: memoryview) -> int:
        """How many bytes were taken.

        Raises:
            BlockingIOError: none is taken now.
            OSError: none ever will.
        """
        if self._own >= 0:
            return os.write(self._own, data)
        if self._kind == stat.S_IFSOCK:
            return _send(self._descriptor, data)
        if self._kind == stat.S_IFCHR:
            return _write_now(self._descriptor, data)
        if self._kind == stat.S_IFIFO and not _takes_pipe_buf(self._descriptor):
            raise BlockingIOError
        return os.write(self._descriptor, data[: select.PIPE_BUF])

    def close(self) -> None:
        """Closes what was opened."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1


def _opened_again(descriptor: int) -> int:
    """A non-blocking open file description of its own; -1 where there is none to be had."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


def _send(descriptor: int, data: memoryview) -> int:
    stream = socket.socket(fileno=descriptor)
    try:
        return stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        stream.detach()


def _write_now(terminal: int, data: memoryview) -> int:
    with _locked(terminal):
        was_blocking = os.get_blocking(terminal)
        os.set_blocking(terminal, False)
        try:
            return os.write(terminal, data)
        finally:
            os.set_blocking(terminal, was_blocking)


@contextlib.contextmanager
def _locked(terminal: int) -> Iterator[None]:
    """A lock of this process (fcntl(2)): descriptors that it shares with others do not share that. BlockingIOError where it is not free."""
    for left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.lockf(terminal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES} or not left:
                raise
        time.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        fcntl.lockf(terminal, fcntl.LOCK_UN)


def _takes_pipe_buf(pipe: int) -> bool:
    """Whether it takes PIPE_BUF bytes, unless somebody else writes first."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return bool(poll.poll(0))


_writer = functools.cache(NonBlockingWriter)


def say(line: str) -> None:
    """Writes a line to stderr, or as much of it as that takes now."""
    data = memoryview(f"{line}\n".encode(errors="backslashreplace")[: select.PIPE_BUF])
    with contextlib.suppress(OSError):
        while data:
            data = data[_writer(2).write(data) :]


def occupy_standard_streams() -> None:
    """Opens 0, 1 and 2 where they are closed: the descriptors of children have to be others."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    _writer(2)  # while there is a descriptor to be had
