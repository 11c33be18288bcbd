"""The log where standard error takes it, and where it does not."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from jobmaster.server import log
from jobmaster.server.log import SeldomWithoutTraceback, UnhurriedHandler, say, say_error


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def record(text: str) -> logging.LogRecord:
    """A record as a module logs it."""
    return logging.LogRecord("jobmaster", logging.WARNING, "file.py", 1, text, None, None)


def fill(pipe: tuple[int, int]) -> None:
    """Fills a pipe until it takes nothing more."""
    os.set_blocking(pipe[1], False)
    try:
        while True:
            os.write(pipe[1], bytes(4096))
    except BlockingIOError:
        os.set_blocking(pipe[1], True)


def test_a_log_that_nobody_reads_is_left_out(pipe: tuple[int, int]) -> None:
    """Into a full pipe nothing is written, and nobody waits; the next line that it takes says how many were left out."""
    handler = UnhurriedHandler(pipe[1])
    fill(pipe)
    for _ in range(3):
        handler.emit(record("unread"))
    os.read(pipe[0], 1024 * 1024)
    handler.emit(record("read again"))
    handler.emit(record("and again"))
    lines = os.read(pipe[0], 65536).splitlines()
    assert lines == [b"(3 lines of this log were left out while nobody read it)", b"read again", b"and again"]


def test_a_long_record_does_not_wait_in_its_middle(pipe: tuple[int, int]) -> None:
    """A record longer than the pipe is cut where that is full."""
    handler = UnhurriedHandler(pipe[1])
    handler.emit(record("x" * 200_000))
    assert set(os.read(pipe[0], 200_000)) == {ord("x")}


def test_a_reader_that_has_left(capfd: pytest.CaptureFixture[str]) -> None:
    """A pipe without a reader loses the log, and no more."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    UnhurriedHandler(write_end).emit(record("line"))
    os.close(write_end)
    assert capfd.readouterr().err == ""


@pytest.fixture
def alarm() -> Iterator[None]:
    """Fails a test that waits in a system call for ten seconds."""

    def fail(*_: object) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sockets() -> tuple[int, int]:
    """Two connected sockets."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("make_ends", [os.openpty, sockets], ids=["terminal", "socket"])
def test_a_terminal_or_socket_that_nobody_reads(make_ends: Callable[[], tuple[int, int]]) -> None:
    """It may take a part of a line, and nobody waits for the rest; the next line is one of its own.

    Whoever else writes to it goes on to wait where he did.
    """
    reads, writes = make_ends()
    handler = UnhurriedHandler(writes)
    for _ in range(2_000):
        handler.emit(record("unread" * 150))
    assert os.get_blocking(writes)
    os.set_blocking(reads, False)
    read = b""
    while read.splitlines()[-1:] != [b"read again"]:
        read += taken(reads)
        handler.emit(record("read again"))
    assert b" lines of this log were left out while nobody read it)" in read
    handler.close()
    os.close(reads)
    os.close(writes)


def taken(descriptor: int) -> bytes:
    """All that is there to be read now."""
    parts = []
    with suppress(BlockingIOError):
        while True:
            parts.append(os.read(descriptor, 65536))
    return b"".join(parts)


@pytest.mark.usefixtures("alarm")
def test_a_pipe_that_another_process_fills(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether it takes more and the write of it, who else has it may write: nobody waits then either."""

    class Poll:
        def register(self, *_: object) -> None:
            """Nothing."""

        def poll(self, _: float) -> list[tuple[int, int]]:
            """It took more, a moment ago."""
            return [(pipe[1], 4)]

    fill(pipe)
    monkeypatch.setattr("select.poll", Poll)
    UnhurriedHandler(pipe[1]).emit(record("unread"))


def test_a_flood_of_failed_accepts_is_a_line_a_minute() -> None:
    """Trio's records with tracebacks, ten a second, become one line."""
    try:
        raise OSError(24, "Too many open files")
    except OSError:
        flood = [
            logging.LogRecord("trio.serve_listeners", logging.ERROR, "f", 1, "accept failed", None, sys.exc_info())
            for _ in range(20)
        ]
    seldom = SeldomWithoutTraceback(60.0)
    passed = [each for each in flood if seldom.filter(each)]
    assert len(passed) == 1
    assert passed[0].exc_info is None


def test_a_line_that_nobody_takes(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stdout that does not take a line is /dev/null from then on: the next one costs no time."""
    fill(pipe)
    stdout = os.dup(pipe[1])
    monkeypatch.setattr(log, "STDOUT", stdout)
    monkeypatch.setattr(log, "STREAM_SECONDS", 0.0)
    say("lost")
    assert os.readlink(f"/proc/self/fd/{stdout}") == os.devnull
    say("lost, too")
    os.close(stdout)


def test_a_line_that_is_no_unicode(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file name that is no UTF-8 is told all the same, on either stream."""
    monkeypatch.setattr(log, "STDOUT", pipe[1])
    monkeypatch.setattr(log, "STDERR", pipe[1])
    say("made \udcff")
    say_error("jobmaster: \udcff")
    assert os.read(pipe[0], 100) == b"made \\udcff\njobmaster: \\udcff\n"


def test_the_traceback_of_a_server_whose_terminal_nobody_reads() -> None:
    """It is written as far as the terminal takes it, and the program ends."""
    dies = "from jobmaster.server.log import open_log; open_log(verbose=False); raise ValueError('x' * 200_000)"
    reads, writes = os.openpty()
    with subprocess.Popen([sys.executable, "-c", dies], stderr=writes) as process:
        try:
            assert process.wait(timeout=20) == 1
        finally:
            process.kill()
            assert os.read(reads, 9) == b"Traceback"
            os.close(reads)
            os.close(writes)
