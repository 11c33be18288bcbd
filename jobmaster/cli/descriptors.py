"""Standard output and standard error, as descriptors that may be anything: closed, full, non-blocking, without a reader.

Python's own `sys.stdout` raises where a descriptor is non-blocking, keeps bytes in a buffer whose loss shows only at the
exit, and is None where the descriptor is closed; `print` to a `sys.stderr` that is None goes to stdout.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
from contextlib import suppress
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
COMPLAIN_SECONDS: Final = 1.0
"""How long standard error may take for a word of ours; 4 KiB of it, where it is longer."""


class OutputFailed(Exception):
    """Standard output did not take what was written; the text says why.

    Attributes:
        reader_left: whoever read it has closed it, which is no failure of anybody: there is nothing to say.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.reader_left = error.errno == errno.EPIPE


class InputFailed(Exception):
    """Standard input could not be read; the text says why."""


def hold_standard_descriptors() -> None:
    """Open the null device in the place of those of the first three descriptors that are closed.

    A socket or a file that got one of their numbers would be written to by mistake. Standard output can then still not
    be written to: where it was closed, writing fails.
    """
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            flags = os.O_WRONLY if descriptor == STDERR else os.O_RDONLY
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one


def require_writable() -> None:
    """Refuse a standard output of which it is known already that it takes nothing.

    Raises:
        OutputFailed: it is closed or not open for writing, its reader has left, or it is a full device.
    """
    try:
        if fcntl.fcntl(STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if _poll(select.POLLOUT, timeout=0) & select.POLLERR:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if stat.S_ISCHR(os.fstat(STDOUT).st_mode):
            os.write(STDOUT, b"")  # a device may refuse no bytes as it would refuse some; others would take a datagram
    except OSError as error:
        raise OutputFailed(error) from error


def is_stdin_given() -> bool:
    """Whether standard input was redirected to what has bytes and an end: a pipe, a socket or a file.

    A terminal is there whether it is meant or not; so is the null device, of which there is nothing to send.
    """
    mode = os.fstat(STDIN).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read_input(most: int) -> bytes:
    """Up to so many bytes of standard input; none at its end. Blocks until there are some.

    Raises:
        InputFailed: it cannot be read.
    """
    try:
        while True:
            try:
                return os.read(STDIN, most)
            except BlockingIOError:
                _poll(select.POLLIN, descriptor=STDIN)
    except OSError as error:
        raise InputFailed(f"standard input: {error.strerror}") from error


def write_output(data: bytes) -> None:
    """Write all of `data` to standard output. Blocks as long as its reader does not read.

    Raises:
        OutputFailed: not all of it was written.
    """
    try:
        _write_all(STDOUT, data)
    except OSError as error:
        raise OutputFailed(error) from error


def write_error(data: bytes) -> None:
    """Write all of `data` to standard error. Where that is not possible, nobody is there to read it."""
    with suppress(OSError):
        _write_all(STDERR, data)


def write_text(text: str) -> None:
    """Write `text` to standard output, in its encoding; what that lacks is escaped.

    Raises:
        OutputFailed: not all of it was written.
    """
    write_output(_encoded(text, sys.stdout))


def write_notice(text: str) -> None:
    """Write `text` to standard error, where it belongs to the output: blocks as long as its reader does not read.

    Where that is not possible, nobody is there to be told.
    """
    write_error(_for_people(text))


def complain(text: str) -> None:
    """Write `text` to standard error, as a last word: what has to be read whatever comes is for `write_notice`.

    Waits COMPLAIN_SECONDS at most: who interrupts a command whose reader has stopped is not to wait for that.
    """
    view = memoryview(_for_people(text))
    with suppress(OSError):
        while view and _poll(select.POLLOUT, descriptor=STDERR, timeout=int(COMPLAIN_SECONDS * 1000)):
            with suppress(BlockingIOError):
                view = view[os.write(STDERR, view[: select.PIPE_BUF]) :]  # which what is called writable takes


def _for_people(text: str) -> bytes:
    """What is written to standard error."""
    if _leaves_lines_as_they_are(STDERR):
        text = text.replace("\n", "\r\n")
    return _encoded(text, sys.stderr)


def _leaves_lines_as_they_are(descriptor: int) -> bool:
    """Whether it is a terminal in raw mode, in which a new line begins below the end of the one before."""
    if not os.isatty(descriptor):
        return False
    import termios  # here, because little is complained of

    return not termios.tcgetattr(descriptor)[1] & termios.OPOST


def _encoded(text: str, stream: object) -> bytes:
    return text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to a descriptor that is blocking or not: the flag is that of all who share it, and not ours to change."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _poll(select.POLLOUT, descriptor=descriptor)


def _poll(events: int, *, descriptor: int = STDOUT, timeout: int | None = None) -> int:
    """Wait, `timeout` milliseconds at most, until one of `events` has come or the descriptor failed: what has come."""
    poll = select.poll()
    poll.register(descriptor, events)
    return sum(came for _, came in poll.poll(timeout))
