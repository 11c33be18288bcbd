"""What the server says: lines to standard output, and its log to standard error, which never holds up the event loop.

Whoever reads standard error may stop reading: a terminal after Ctrl-S or of a connection that stands still, a pager, a log
collector that hangs. A write would then wait, and with it every call of every client, and the signal that is to end the
server. So what standard error does not take now is left out, and the log says how many lines that were.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from contextlib import closing, suppress
from typing import Final

from jobmaster.launcher.streams import NonBlockingWriter

STDOUT: Final = 1
STDERR: Final = 2
LISTENER: Final = "trio.serve_listeners"
"""Trio's logger of failed accepts: ten a second, with a traceback each, as long as there is no descriptor."""
ACCEPT_SECONDS: Final = 60.0
"""Between two lines of it."""
STREAM_SECONDS: Final = 1.0
"""How long stdout may take for a line, and stderr for what the program says at its end."""
PAUSE: Final = 0.01
"""Between two tries to write."""


def open_log(*, verbose: bool) -> None:
    """Sends what every module logs to standard error."""
    handler = UnhurriedHandler(STDERR)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger(LISTENER).addFilter(SeldomWithoutTraceback(ACCEPT_SECONDS))
    sys.excepthook = _say_traceback


def set_verbose(*, verbose: bool) -> None:
    """Has the log of everything, or of what an operator should see."""
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)


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


def _say_traceback(_: object, error: BaseException, _traceback: object) -> None:
    say_error("".join(traceback.format_exception(error)).rstrip())


def _is_said(descriptor: int, line: str) -> bool:
    data = _encoded(line)
    with closing(NonBlockingWriter(descriptor)) as writer:
        return write_within(writer, data, seconds=STREAM_SECONDS) == len(data)


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def write_within(writer: NonBlockingWriter, data: bytes, *, seconds: float = 0.0) -> int:
    """Writes what is taken in so much time: how many bytes."""
    deadline = time.monotonic() + seconds
    view = memoryview(data)
    with suppress(OSError):
        while view:
            try:
                view = view[writer.write(view) :]
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(PAUSE)
    return len(data) - len(view)


class UnhurriedHandler(logging.Handler):
    """Writes each record to a descriptor that may take it or not."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._writer = NonBlockingWriter(descriptor)
        self._left_out = 0
        self._is_cut = False
        """What was written last is no whole line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or counts it as left out."""
        try:
            text = self.format(record)
            if self._left_out:
                text = f"({self._left_out} lines of this log were left out while nobody read it)\n{text}"
            self._write(_encoded("\n" * self._is_cut + text))
        except Exception:  # noqa: BLE001  # a text that cannot be formatted: logging's own way to say so
            self.handleError(record)

    def _write(self, data: bytes) -> None:
        written = write_within(self._writer, data)
        if written == len(data):
            self._left_out = 0
        else:
            self._left_out += 1
        if written:
            self._is_cut = written < len(data)

    def close(self) -> None:
        """Closes what it has opened."""
        self._writer.close()
        super().close()


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
