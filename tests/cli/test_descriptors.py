"""Standard output and standard error in the states in which a shell, a terminal or a parent may hand them over."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.cli import descriptors
from jobmaster.cli.descriptors import STDERR, OutputFailed, complain, require_writable, write_output, write_text
from tests.harness import REPOSITORY


@contextmanager
def standard(number: int, descriptor: int) -> Iterator[None]:
    """Puts another descriptor in the place of a standard one."""
    saved = os.dup(number)
    try:
        os.dup2(descriptor, number)
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def opened(path: Path | str, flags: int) -> Iterator[int]:
    """A descriptor of a file."""
    descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def test_a_non_blocking_pipe_takes_all() -> None:
    """A pipe that somebody made non-blocking takes all bytes in their order, and stays non-blocking."""
    data = bytes(range(256)) * 4096  # a mebibyte: sixteen times what the pipe holds
    received = bytearray()
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        with standard(1, writing):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, write_output, data)
                while len(received) < len(data):
                    received += await trio.to_thread.run_sync(os.read, reading, 65536)
        assert not os.get_blocking(writing)
    assert received == data


def test_a_full_device() -> None:
    """A device that takes nothing is known before anything is written, and is an error that says so."""
    with opened("/dev/full", os.O_WRONLY) as full, standard(1, full):
        with pytest.raises(OutputFailed, match="standard output: No space left on device") as failure:
            require_writable()
        assert not failure.value.reader_left
        with pytest.raises(OutputFailed, match="No space left on device"):
            write_text("x")


def test_a_reader_that_has_left() -> None:
    """A pipe without a reader is known before anything is written, and told apart from other failures."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with standard(1, writing):
            for attempt in (require_writable, lambda: write_output(b"x")):
                with pytest.raises(OutputFailed) as failure:
                    attempt()
                assert failure.value.reader_left
    finally:
        os.close(writing)


def test_not_open_for_writing(tmp_path: Path) -> None:
    """A descriptor that is open for reading alone is known before anything is written."""
    with (
        opened(tmp_path / "file", os.O_RDONLY) as file,
        standard(1, file),
        pytest.raises(OutputFailed, match="Bad file descriptor"),
    ):
        require_writable()


@pytest.mark.parametrize("kind", ["file", "pipe", "/dev/null"])
def test_what_takes_output(tmp_path: Path, kind: str) -> None:
    """Files, pipes and devices that take output pass, and nothing is written to find that out."""
    with pipe() as (reading, writing), opened(tmp_path / "file", os.O_WRONLY) as file:
        null = os.open(os.devnull, os.O_WRONLY)
        with standard(1, {"file": file, "pipe": writing, "/dev/null": null}[kind]):
            require_writable()
        os.close(null)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    assert (tmp_path / "file").read_bytes() == b""


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that the locale has no letters for, and surrogates, are written as escapes and raise nothing."""
    monkeypatch.setattr(sys, "stdout", type("Latin", (), {"encoding": "latin-1"}))
    with pipe() as (reading, writing), standard(1, writing):
        write_text("é日\udcff\n")
        assert os.read(reading, 100) == b"\xe9\\u65e5\\udcff\n"


def test_nobody_to_complain_to() -> None:
    """A standard error that takes nothing is no error of its own."""
    with opened("/dev/full", os.O_WRONLY) as full, standard(2, full):
        complain("x\n")


@contextmanager
def stopped_reader() -> Iterator[int]:
    """Standard error is a pipe that is full, whose reader does not read; gives the end at which it would."""
    with pipe() as (read, write), standard(STDERR, write):
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, bytes(65536))
        os.set_blocking(write, True)
        yield read


async def said_to_a_late_reader(command: Callable[[], Awaitable[object]]) -> bytes:
    """What a command writes to a standard error that is read when nothing else happens."""
    with stopped_reader() as read:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(command)
            await wait_all_tasks_blocked(0.05)
            os.read(read, 1 << 20)
        os.set_blocking(read, False)
        with suppress(BlockingIOError):
            return os.read(read, 1 << 20)
    return b""


def test_a_reader_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for whoever does not read a complaint."""
    monkeypatch.setattr(descriptors, "COMPLAIN_SECONDS", 0.01)
    with stopped_reader():
        complain("x\n")


@pytest.mark.parametrize("is_raw", [True, False])
def test_lines_on_a_raw_terminal(*, is_raw: bool) -> None:
    """Each begins at the left, whether the terminal sees to that or not."""
    master, slave = os.openpty()
    if is_raw:
        tty.setraw(slave)
    with standard(2, slave):
        complain("one\ntwo\n")
    assert os.read(master, 100) == b"one\r\ntwo\r\n"
    os.close(master)
    os.close(slave)


def test_poll_waits_for_room() -> None:
    """Waiting for a full pipe ends when it is read, and not before."""
    with pipe() as (reading, writing), standard(1, writing):
        os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
        assert descriptors._poll(select.POLLOUT, timeout=0) == 0
        os.read(reading, 65536)
        assert descriptors._poll(select.POLLOUT) == select.POLLOUT


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_closed_descriptors_are_held(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """No file gets the number of a closed standard descriptor; output is then refused, complaints go nowhere."""
    program = f"""
import os
for descriptor in {closed}:
    os.close(descriptor)
from jobmaster.cli.descriptors import STDERR, OutputFailed, complain, hold_standard_descriptors, write_output
hold_standard_descriptors()
opened = os.open({str(tmp_path / "file")!r}, os.O_WRONLY | os.O_CREAT)
complain("complaint")
try:
    write_output(b"output")
    said = "written"
except OutputFailed as failure:
    said = str(failure)
os.write(opened, f"{{opened > 2}} {{said}}".encode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY)
    refused = f"standard output: {os.strerror(errno.EBADF)}"
    assert (tmp_path / "file").read_text() == f"True {refused if 1 in closed else 'written'}"
    assert done.stdout == (b"" if 1 in closed else b"output")
    assert done.stderr == (b"" if 2 in closed else b"complaint")
