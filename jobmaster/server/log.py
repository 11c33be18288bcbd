"""What the server says: lines to standard output, and its log to standard error, which never holds up the event loop.

Whoever reads standard error may stop reading: a terminal after Ctrl-S, a pager, a log collector that hangs. A write would
then wait, and with it every call of every client, and the signal that is to end the server. So what standard error does
not take now is left out, and the log says how many lines that were.
"""

from __future__ import annotations

import logging
import os
import select
import time
from contextlib import suppress
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2
LISTENER: Final = "trio.serve_listeners"
"""Trio's logger of failed accepts: ten a second, with a traceback each, as long as there is no descriptor."""
ACCEPT_SECONDS: Final = 60.0
"""Between two lines of it."""
STREAM_SECONDS: Final = 1.0
"""How long stdout may take for a line, and stderr for what the program says at its end."""


def open_log(*, verbose: bool) -> None:
    """Sends what every module logs to standard error."""
    handler = UnhurriedHandler(STDERR)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger(LISTENER).addFilter(SeldomWithoutTraceback(ACCEPT_SECONDS))


def say(line: str) -> None:
    """Writes a line to stdout, which from the first failure on is /dev/null: a full disk, a reader that reads no more.

    A pipe that nobody reads is full after so many servers of one launcher, and the next one has to serve all the same.
    """
    if not _is_said(STDOUT, line):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, STDOUT)
        os.close(null)


def say_error(line: str) -> None:
    """Writes a line to stderr, or as much of it as that takes."""
    _is_said(STDERR, line)


def _is_said(descriptor: int, line: str) -> bool:
    return write_within(descriptor, f"{line}\n".encode(errors="backslashreplace"), seconds=STREAM_SECONDS)


def write_within(descriptor: int, data: bytes, *, seconds: float = 0.0) -> bool:
    """Writes what the descriptor takes without a longer wait at any of its bytes; whether that was all.

    A pipe, a terminal or a socket that poll(2) calls writable takes PIPE_BUF bytes; a file is always writable.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    view = memoryview(data)
    with suppress(OSError):
        while view and poll.poll(seconds * 1000):
            view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
    return not view


class UnhurriedHandler(logging.Handler):
    """Writes each record to a descriptor that may take it or not."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or counts it as left out."""
        try:
            text = self.format(record)
            if self._left_out:
                text = f"({self._left_out} lines of this log were left out while nobody read it)\n{text}"
            if write_within(self._descriptor, f"{text}\n".encode(errors="backslashreplace")):
                self._left_out = 0
            else:
                self._left_out += 1
        except Exception:  # noqa: BLE001  # a text that cannot be formatted: logging's own way to say so
            self.handleError(record)


class SeldomWithoutTraceback(logging.Filter):
    """Passes one record in so many seconds, as a line."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        record.exc_info = None
        return True
