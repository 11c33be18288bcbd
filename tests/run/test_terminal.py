"""A job's terminal as the server has it: its size, what is typed into it, and its end."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import tty
from collections.abc import AsyncIterator
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import InputClosed, InvalidRequest
from jobmaster.job.terminal import Window
from jobmaster.run.stdin import CAPACITY, Stdin, open_queue
from jobmaster.run.terminal import RECHECK_SECONDS, TerminalInput, open_terminal, set_window
from tests.run.feeding import input_at
from tests.run.test_stdin import moving, read_exactly, until, write_pieces, write_until_closed

KERNEL: Final = 128 * 1024
"""More than a terminal takes for a program that does not read."""


class Typed:
    """A terminal that hands over what is typed as it is, and its input."""

    def __init__(self) -> None:
        self.master, self.job_end = open_terminal(Window())
        tty.setraw(self.job_end)
        self.queue = open_queue()
        self.input = TerminalInput(self.queue, self.master)

    def window(self) -> tuple[int, int]:
        """As the job sees it."""
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self.job_end, termios.TIOCGWINSZ, bytes(8)))
        return rows, columns


@pytest.fixture
async def typed() -> AsyncIterator[Typed]:  # noqa: ASYNC124  # it needs Trio's loop
    """A terminal into which nobody types yet."""
    made = Typed()
    yield made
    made.input.leave()
    if made.job_end >= 0:
        os.close(made.job_end)


def test_a_new_terminal() -> None:
    """It has the size that was asked for, erases characters and not bytes, and only its owner may open it."""
    master, slave = open_terminal(Window(rows=33, columns=99))
    assert struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8))) == (33, 99, 0, 0)
    assert termios.tcgetattr(slave)[0] & 0o40000
    assert os.fstat(slave).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(master)
    assert not os.get_blocking(master)
    assert os.get_blocking(slave)
    os.close(master)
    os.close(slave)


async def test_all_that_is_typed_arrives(typed: Typed) -> None:
    """Every byte in order, however much comes at once."""
    async with moving(typed.input), trio.open_nursery() as nursery:
        nursery.start_soon(write_pieces, typed.input, [1, 4095, 200_000, 3])
        assert await read_exactly(typed.job_end, 204_099) == input_at(0, 204_099)


async def test_a_job_that_does_not_read(typed: Typed) -> None:
    """Only what the kernel and `CAPACITY` hold is taken for it; when it reads, it gets all."""
    async with moving(typed.input), trio.open_nursery() as nursery:
        nursery.start_soon(write_pieces, typed.input, [1_000_000])
        await wait_all_tasks_blocked(0.05)
        assert CAPACITY <= typed.input.accepted < KERNEL + CAPACITY
        assert await read_exactly(typed.job_end, 1_000_000) == input_at(0, 1_000_000)


async def test_a_terminal_that_nobody_has_open(typed: Typed) -> None:
    """The kernel takes what is typed, as much as for a program that does not read; the end of the job tells its writer."""
    os.close(typed.job_end)
    typed.job_end = -1
    async with moving(typed.input), trio.open_nursery() as nursery:
        nursery.start_soon(write_until_closed, typed.input)
        await wait_all_tasks_blocked(0.05)  # it is no work for anybody
        assert typed.input.accepted < KERNEL + CAPACITY
        typed.input.resize(Window(rows=1, columns=1))
        await typed.input.close()
    typed.input.resize(Window(rows=2, columns=2))


@pytest.mark.parametrize(("is_open", "seconds"), [(True, 0), (False, RECHECK_SECONDS)])
async def test_waiting_for_space(
    typed: Typed, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_open: bool, seconds: float
) -> None:
    """It lasts until the kernel tells of space, but where nobody has the terminal open, which looks the same, a while."""
    waits = 0

    async def wait(_: Stdin) -> None:
        nonlocal waits
        waits += 1
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Stdin, "_wait_for_space", wait)
    if not is_open:
        os.close(typed.job_end)
        typed.job_end = -1
    await typed.input._wait_for_space()
    assert waits == is_open
    assert trio.current_time() == pytest.approx(seconds)


async def test_closing_before_all_is_typed(typed: Typed) -> None:
    """The end of a job that does not read ends its input, too, without a sound."""
    async with moving(typed.input), trio.open_nursery() as nursery:
        nursery.start_soon(write_until_closed, typed.input)
        await wait_all_tasks_blocked(0.05)
        await typed.input.close()
        await wait_all_tasks_blocked()
    assert not typed.input.is_read


async def test_a_terminal_that_takes_nothing(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel says that it has no other end any more, who types is told so."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "sendfile", refuse)
    async with moving(typed.input):
        await typed.input.write(0, b"x")
        await until(lambda: not typed.input.is_read)
        with pytest.raises(InputClosed, match="reads no more"):
            await typed.input.write(1, b"y")


async def test_no_end(typed: Typed) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """The input of a terminal is not ended: a key is typed for that."""
    with pytest.raises(InvalidRequest, match="Ctrl-D") as refused:
        typed.input.end(0)
    assert (refused.value.field, typed.input.has_ended) == ("end", False)


async def test_the_next_server_goes_on(typed: Typed) -> None:
    """It types what was accepted and not typed yet, and knows how much that is."""
    await typed.input.write(0, b"abc")
    queue, master = os.dup(typed.queue), os.dup(typed.master)
    typed.input.leave()
    heir = TerminalInput(queue, master)
    assert (heir.accepted, heir.is_read) == (3, True)
    async with moving(heir):
        assert await read_exactly(typed.job_end, 3) == b"abc"
        heir.resize(Window(rows=7, columns=8))
        assert typed.window() == (7, 8)
    heir.leave()


async def test_sizes(typed: Typed) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """The job sees the size that was told last, also the largest one."""
    typed.input.resize(Window(rows=50, columns=200))
    assert typed.window() == (50, 200)
    set_window(typed.master, Window(rows=65_535, columns=65_535))
    assert typed.window() == (65_535, 65_535)
