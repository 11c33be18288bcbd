"""Output of real terminals: through the pipe into the log, whole, and counted where it is not."""

from __future__ import annotations

import errno
import os
import select
import threading
import tty
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.output import moving
from jobmaster.output import source as source_module
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import FINISH_SECONDS, GATHER_SECONDS, RECHECK_SECONDS, Pump, open_pipe
from jobmaster.output.terminal import MOST_READS, TerminalEnds, bytes_in, drain, fill
from jobmaster.output.transfer import PIPE_SIZE, Transfer, Transferred
from jobmaster.threads import FIRST_PAUSE

DEADLINE: Final = 60.0
WHOLE: Final = b"".join(b"%d\n" % number for number in range(300_000))
"""More than the pipe takes."""


class Line:
    """A terminal whose output is not changed, and its pipe."""

    def __init__(self) -> None:
        self.master, self.job_end = os.openpty()
        self.name = os.ttyname(self.job_end)
        tty.setraw(self.job_end)
        os.set_blocking(self.master, False)
        self.read_end, self.write_end = open_pipe()
        self.ends = TerminalEnds(master=self.master, pipe=self.write_end)
        self.job_is_open = True

    def hang_up(self) -> None:
        """The last process closes the terminal."""
        os.close(self.job_end)
        self.job_is_open = False

    def open_again(self) -> None:
        """A process opens the terminal that none had open."""
        self.job_end = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
        self.job_is_open = True

    def write_all(self) -> threading.Thread:
        """A process that writes `WHOLE` and closes the terminal."""

        def write() -> None:
            view = memoryview(WHOLE)
            while view:
                view = view[os.write(self.job_end, view[:10_000]) :]
            self.hang_up()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        return thread

    def fill(self, count: int) -> None:
        """Fills the pipe, until it has so many bytes: the kernel brings what was written after a moment."""
        while bytes_in(self.read_end) < count:
            assert not fill(self.ends)

    def close(self) -> None:
        """Closes everything."""
        if self.job_is_open:
            self.hang_up()
        for fd in (self.master, self.read_end, self.write_end):
            os.close(fd)


@pytest.fixture
def line() -> Iterator[Line]:
    """A terminal whose ends the test closes, or leaves to a pump."""
    made = Line()
    yield made
    if made.job_is_open:
        made.hang_up()


def log_at(folder: Path) -> OutputLog:
    """A fresh log; its pump closes it."""
    return OutputLog(folder / "job.log")


def kept(folder: Path) -> bytes:
    """What the log has."""
    return (folder / "job.log").read_bytes()


@asynccontextmanager
async def running(pump: Pump) -> AsyncIterator[None]:
    """A pump that runs until the end of the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)  # noqa: ASYNC113  # nothing depends on when it begins
        yield
        nursery.cancel_scope.cancel()


async def until_kept(log: OutputLog, size: int) -> None:
    """Waits until a log has so many bytes."""
    while log.size < size:
        await log.wait_growth()


def until_readable(master: int) -> None:
    """Waits until the kernel has brought what was written to a terminal."""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    assert poll.poll(DEADLINE * 1000)


def until_closed(line: Line) -> None:
    """Fills the pipe until the terminal has nothing more, and nobody."""
    while not fill(line.ends):
        pass


def test_filling(line: Line) -> None:
    """What was written comes into the pipe, nothing more than that, and the end is told when all has come."""
    assert not fill(line.ends)
    os.write(line.job_end, b"hello")
    line.fill(5)
    os.write(line.job_end, b" you")
    line.hang_up()
    until_closed(line)
    assert os.read(line.read_end, 100) == b"hello you"
    assert fill(line.ends)
    line.close()


def test_a_pipe_that_is_full(line: Line) -> None:
    """It takes no more than it has space for, and the rest stays in the terminal."""
    os.write(line.write_end, bytes(PIPE_SIZE))
    os.write(line.job_end, b"rest")
    for _ in range(3):
        assert not fill(line.ends)
    assert bytes_in(line.read_end) == PIPE_SIZE
    os.read(line.read_end, PIPE_SIZE)
    line.fill(4)
    assert os.read(line.read_end, 100) == b"rest"
    line.close()


def test_what_is_left_is_counted(line: Line) -> None:
    """The bytes that nobody will move are taken out, to the last one in the kernel's buffers."""
    os.set_blocking(line.job_end, False)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += os.write(line.job_end, bytes(1_000))
    line.hang_up()
    counted = 0
    while counted < written:
        counted += drain(line.ends)
    assert (counted, drain(line.ends)) == (written, 0)
    line.close()


def test_what_is_left_is_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process writes as fast as what is left is taken out, that ends all the same."""
    monkeypatch.setattr(os, "read", lambda *_: b"x")
    assert drain(line.ends) == MOST_READS
    line.close()


def test_a_kernel_that_does_not_splice(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes pass through memory, a few at a time, and into a pipe that is empty: whatever it does, nothing is dropped."""

    def refuse(*_: object, **_options: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "splice", refuse)
    writer = line.write_all()
    received = bytearray()
    is_closed = False
    while not is_closed:
        is_closed = fill(line.ends)
        if count := bytes_in(line.read_end):
            received += os.read(line.read_end, count)
    writer.join()
    assert bytes(received) == WHOLE
    line.close()


async def test_all_of_it_is_kept(line: Line, tmp_path: Path) -> None:
    """Everything that was written is in the log, in order, and the end is found when the terminal is closed."""
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    writer = line.write_all()
    with trio.fail_after(DEADLINE):
        async with running(pump):
            await until_kept(log, len(WHOLE))
        await pump.finish()
        await pump.close()
    writer.join()
    assert kept(tmp_path) == WHOLE
    for fd in (line.master, line.read_end, line.write_end):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_all_of_it_is_kept_without_splice(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where the kernel does not splice from terminals, but from pipes."""
    splice = os.splice

    def refuse(source: int, *args: Any, **options: Any) -> int:
        if os.isatty(source):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return splice(source, *args, **options)

    monkeypatch.setattr(os, "splice", refuse)
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    writer = line.write_all()
    with trio.fail_after(DEADLINE):
        async with running(pump):
            await until_kept(log, len(WHOLE))
        await pump.finish()
        await pump.close()
    writer.join()
    assert kept(tmp_path) == WHOLE


async def test_what_an_earlier_server_left_in_the_pipe(line: Line, tmp_path: Path) -> None:
    """It is kept, though nothing tells of it, and before all that comes then."""
    os.write(line.write_end, b"before ")
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    with trio.fail_after(DEADLINE):
        async with running(pump):
            await until_kept(log, 7)
            os.write(line.job_end, b"after")
            await until_kept(log, 12)
        await pump.finish()
        await pump.close()
    assert kept(tmp_path) == b"before after"


async def test_nothing_to_do(line: Line, tmp_path: Path) -> None:
    """A terminal that is open and quiet costs no moves."""
    pump = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    async with running(pump):
        await wait_all_tasks_blocked(0.05)
    await pump.finish()
    await pump.close()
    assert kept(tmp_path) == b""


async def test_the_rest_at_the_end(line: Line, tmp_path: Path) -> None:
    """What is in the terminal when its job has ended is kept, though the pump never ran."""
    os.write(line.job_end, b"last words")
    line.hang_up()
    pump = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    with trio.fail_after(DEADLINE):
        await pump.finish()
        await pump.close()
    assert kept(tmp_path) == b"last words"


async def test_what_is_in_transit_at_the_end(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel brings only after the terminal was first found empty is kept as well."""

    def fill_late(ends: TerminalEnds) -> bool:
        monkeypatch.setattr(moving, "fill", fill)
        return False

    monkeypatch.setattr(moving, "fill", fill_late)
    os.write(line.job_end, b"last words")
    line.hang_up()
    pump = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    with trio.fail_after(DEADLINE):
        await pump.finish()
        await pump.close()
    assert kept(tmp_path) == b"last words"


async def test_a_terminal_that_another_process_has_open(line: Line, tmp_path: Path) -> None:
    """Its end is waited for only so long; what was written until then is kept."""
    os.write(line.job_end, b"last words")
    line.fill(10)
    pump = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    with trio.fail_after(DEADLINE):
        await pump.finish()
        await pump.close()
    assert kept(tmp_path) == b"last words"


async def test_an_end_that_moves_nothing(line: Line, tmp_path: Path) -> None:
    """What is left in the pipe is another server's to find there; what was taken out of the terminal is lost for good."""
    os.write(line.write_end, b"in the pipe")
    os.write(line.job_end, b"in the terminal")
    until_readable(line.master)
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pump.finish()
    assert (log.lost, log.left_in_pipe, log.gone_for_good) == (26, 11, (15, 0))
    await pump.close()


async def test_an_end_whose_move_is_held_up(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """Where a disk holds up the last move, what it has left in the terminal counts as lost as well."""
    entered, released = threading.Event(), threading.Event()

    def held_up(transfer: Transfer, waiting: int) -> Transferred:
        entered.set()
        assert released.wait(DEADLINE)
        return run(transfer, waiting)

    run = Transfer.run
    monkeypatch.setattr(Transfer, "run", held_up)
    monkeypatch.setattr(moving, "PUMPS", trio.CapacityLimiter(1))  # one's own, whose thread may end after the loop
    os.write(line.write_end, bytes(PIPE_SIZE))
    os.write(line.job_end, b"in the terminal")
    until_readable(line.master)
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.finish)
        assert await trio.to_thread.run_sync(entered.wait, DEADLINE)
        mock_clock.jump(FINISH_SECONDS)
    assert (log.lost, log.left_in_pipe) == (PIPE_SIZE + 15, PIPE_SIZE)
    await pump.close()
    released.set()


async def test_a_count_that_is_held_up(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """What is left is counted by a thread; where that is left behind, it closes the descriptors, and nobody before."""
    entered, released, closed = threading.Event(), threading.Event(), threading.Event()
    close_all = source_module._close_all

    def close_and_say(fds: Iterable[int]) -> None:
        close_all(fds)
        closed.set()

    def held_up(ends: TerminalEnds) -> int:
        entered.set()
        assert released.wait(DEADLINE)
        return drain(ends)

    monkeypatch.setattr(source_module, "drain", held_up)
    monkeypatch.setattr(source_module, "_close_all", close_and_say)
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.finish)
        nursery.cancel_scope.cancel()  # before it has moved anything
        with trio.CancelScope(shield=True):
            assert await trio.to_thread.run_sync(entered.wait, DEADLINE)
            mock_clock.jump(FINISH_SECONDS)
    await pump.close()
    assert log.fd == -1
    for fd in (line.master, line.read_end, line.write_end):
        os.fstat(fd)
    released.set()
    assert await trio.to_thread.run_sync(closed.wait, DEADLINE)
    for fd in (line.master, line.read_end, line.write_end):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_handing_over(line: Line, tmp_path: Path) -> None:
    """A server that leaves closes its own ends; the one that follows goes on where it was."""
    heirs = TerminalEnds(master=os.dup(line.master), pipe=os.dup(line.write_end))
    read_end = os.dup(line.read_end)
    first = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    os.write(line.job_end, b"some ")
    with trio.fail_after(DEADLINE):
        with trio.move_on_after(0.05):
            await first.run()
        await first.hand_over()
        await first.close()
        os.write(line.job_end, b"more")
        line.hang_up()
        log = OutputLog.reopen(tmp_path / "job.log", lost=0)
        second = Pump(read_end, log, terminal=heirs)
        async with running(second):
            await until_kept(log, 9)
        await second.finish()
        await second.close()
    assert kept(tmp_path) == b"some more"


# --- a terminal that no process has open for a while ------------------------------------------------------------------


async def test_a_terminal_that_is_opened_again(line: Line, tmp_path: Path) -> None:
    """What is written after every process had closed the terminal is kept at once, and holds up no writer."""
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    with trio.fail_after(DEADLINE):
        async with running(pump):
            for _ in range(2):
                line.hang_up()
                await wait_all_tasks_blocked(0.05)
                before = log.size
                line.open_again()
                os.write(line.job_end, b"Password: ")
                await until_kept(log, before + 10)
            before = log.size
            line.hang_up()
            await wait_all_tasks_blocked(0.05)
            line.open_again()
            writer = line.write_all()
            await until_kept(log, before + len(WHOLE))
        await pump.finish()
        await pump.close()
    writer.join()
    assert kept(tmp_path) == 2 * b"Password: " + WHOLE


async def test_a_terminal_that_the_server_before_found_closed(line: Line, tmp_path: Path) -> None:
    """A pump that finds it closed at first goes on when it is opened."""
    line.hang_up()
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    with trio.fail_after(DEADLINE):
        async with running(pump):
            await wait_all_tasks_blocked(0.05)
            line.open_again()
            os.write(line.job_end, b"Password: ")
            await until_kept(log, 10)
        await pump.hand_over()
        await pump.close()
    assert kept(tmp_path) == b"Password: "


class Looks:
    """Counts how often a pump looks into its terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(moving, "fill", self._fill)

    def _fill(self, ends: TerminalEnds) -> bool:
        self.count += 1
        return fill(ends)


async def test_a_terminal_that_stays_closed(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs no moves, and no time when its job ends."""
    looks = Looks(monkeypatch)
    line.hang_up()
    before = set(os.listdir("/dev/fd"))
    pump = Pump(line.read_end, log_at(tmp_path), terminal=line.ends)
    async with running(pump):
        await wait_all_tasks_blocked(0.05)
        found = looks.count
        await wait_all_tasks_blocked(0.05)
        assert looks.count == found <= 2
    await pump.finish()
    assert looks.count == found + 1
    await pump.close()
    assert len(before) - len(os.listdir("/dev/fd")) == 3, "the descriptors are closed"


async def test_a_closed_terminal_and_no_memory(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """What is written to it once it is opened again is looked for until it can be read, though it is told only once."""

    def refuse(_: TerminalEnds) -> bool:
        monkeypatch.setattr(moving, "fill", fill)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    line.hang_up()
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    async with running(pump):
        for _ in range(2):
            await wait_all_tasks_blocked(0.05)
            mock_clock.jump(GATHER_SECONDS)
        await wait_all_tasks_blocked(0.05)
        monkeypatch.setattr(moving, "fill", refuse)
        line.open_again()
        os.write(line.job_end, b"Password: ")
        await wait_all_tasks_blocked(0.05)
        assert log.size == 0
        mock_clock.jump(FIRST_PAUSE)
        await wait_all_tasks_blocked(0.05)
        assert log.size == 10
    await pump.hand_over()
    await pump.close()


async def test_a_closed_terminal_and_no_descriptor_left(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """Where nothing can tell that the terminal is opened again, it is looked at every RECHECK_SECONDS."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(select, "epoll", refuse)
    looks = Looks(monkeypatch)
    line.hang_up()
    log = log_at(tmp_path)
    pump = Pump(line.read_end, log, terminal=line.ends)
    async with running(pump):
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(GATHER_SECONDS)
        await wait_all_tasks_blocked(0.05)
        line.open_again()
        os.write(line.job_end, b"Password: ")
        await wait_all_tasks_blocked(0.05)
        assert looks.count == 1
        mock_clock.jump(RECHECK_SECONDS)
        await until_kept(log, 10)
    await pump.hand_over()
    await pump.close()
    assert kept(tmp_path) == b"Password: "
