"""A pump whose disk, host or file system holds it up: it ends by its deadlines, and every byte is accounted for.

The clock stands still, and jumps where a test says so: no deadline passes because a thread is slow.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from jobmaster import threads
from jobmaster.output import closing as closing_module
from jobmaster.output import log as log_module
from jobmaster.output import moving, transfer
from jobmaster.output import pump as pump_module
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.dropping import drop
from jobmaster.output.log import OutputLog
from jobmaster.output.moving import PUMPS_OF_CLIENT, Shares
from jobmaster.output.pump import FINISH_SECONDS, STALL_SECONDS, Pump, open_pipe
from jobmaster.threads import LeftThreads, NoThread

RUN_IN_THREAD: Final = trio.to_thread.run_sync
"""Trio's own, whatever a test puts in its place."""
REAL_SECONDS: Final = 60.0
"""How long a thread may really take."""
KIB: Final = 1024
Clock = trio.testing.MockClock


class Disk:
    """Stands in for the os module of the pump: what is done to certain files waits, or fails."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()
        self.closed = threading.Semaphore(0)
        self.close_error: int | None = None
        self.holds_close = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def splice(self, source: int, target: int, count: int, *, offset_dst: int) -> int:
        """Waits where the target is held."""
        if target in self.held:
            self.wait()
        return os.splice(source, target, count, offset_dst=offset_dst)

    def close(self, descriptor: int) -> None:
        """Waits or fails where a file is held, when it is closed."""
        is_held = descriptor in self.held
        if is_held and self.holds_close:
            self.wait()
        os.close(descriptor)
        if is_held:
            self.closed.release()
            if self.close_error is not None:
                raise OSError(self.close_error, os.strerror(self.close_error))

    def wait(self) -> None:
        """As a disk that does not answer."""
        self.entered.release()
        assert self.released.wait(REAL_SECONDS)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of the pumps, released at the end."""
    made = Disk()
    for module in (pump_module, closing_module, transfer, log_module):
        monkeypatch.setattr(module, "os", made)
    # One's own: a thread that ends after its test's loop can't give its token back.
    monkeypatch.setattr(moving, "PUMPS", trio.CapacityLimiter(int(moving.PUMPS.total_tokens)))
    yield made
    made.released.set()


@contextmanager
def job(path: Path, disk: Disk, *, is_held: bool = True) -> Iterator[tuple[Pump, OutputLog, int]]:
    """A pump with its log and the job's end of its pipe."""
    log = OutputLog(path)
    if is_held:
        disk.held.add(log.fd)
    read_end, write_end = open_pipe()
    yield Pump(read_end, log), log, write_end
    os.close(write_end)


async def in_real_time(wait: Callable[[], bool]) -> None:
    """Waits for a thread."""
    assert await RUN_IN_THREAD(wait)


def within(semaphore: threading.Semaphore) -> Callable[[], bool]:
    """Waits for a thread to come there."""
    return lambda: semaphore.acquire(timeout=REAL_SECONDS)


async def released(disk: Disk) -> None:
    """Has the disk answer, and returns when no thread of a pump is left: what one does after that is never done."""
    disk.released.set()
    while moving.PUMPS.borrowed_tokens:
        await RUN_IN_THREAD(int)


def refuse_threads(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next threads can't be started: pthread_create(3) gives EAGAIN."""
    left = [times]

    async def run_sync(*args: Any, **keywords: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            await trio.lowlevel.checkpoint()
            raise RuntimeError("can't start new thread")
        return await RUN_IN_THREAD(*args, **keywords)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


# --- a disk that does not answer --------------------------------------------------------------------------------------


async def hold_up(pump: Pump, disk: Disk) -> None:
    """Runs a pump until the disk holds it up, and then cancels it, as a job's end does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await in_real_time(within(disk.entered))
        nursery.cancel_scope.cancel()


async def test_the_end_does_not_wait_for_the_disk(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """A move that the disk holds up is given up after FINISH_SECONDS; its bytes are lost, its thread closes the files."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"held up")
        await hold_up(pump, disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.finish)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(FINISH_SECONDS - 0.1)
            await trio.testing.wait_all_tasks_blocked()
            assert log.lost == 0
            mock_clock.jump(0.1)
        assert (log.size, log.lost, log.left_in_pipe) == (0, 7, 7)
        os.fstat(log.fd)  # the thread has it
        assert pump.left_threads.count == 1
        await released(disk)
        assert pump.left_threads.count == 0
        assert disk.closed.acquire(blocking=False)
        assert (log.size, log.lost) == (0, 7), "what is counted stays"


async def test_a_lock_that_hides_what_is_in_the_pipe(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where even the count of what is there waits for whoever has the pipe's lock, the operator is told that nobody knows it."""

    def held_up(_pipe: int) -> int:
        disk.wait()
        return 0

    monkeypatch.setattr(moving, "bytes_in", held_up)
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"hidden")
        await hold_up(pump, disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.finish)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(FINISH_SECONDS)
        assert log.lost == 0
        assert "nobody could tell" in caplog.text
        await released(disk)


async def test_a_drop_that_is_left_hides_nothing(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that a disk holds up while it drops the middle has nothing from the pipe: what is there is counted as ever."""
    really = drop

    def held_up(*args: Any) -> Any:
        disk.wait()
        return really(*args)

    monkeypatch.setattr(moving, "drop", held_up)
    monkeypatch.setattr(moving, "PUNCHERS", punchers := trio.CapacityLimiter(1))
    log = OutputLog(tmp_path / "log", Cap(SMALLEST))
    read_end, write_end = open_pipe()
    os.set_blocking(write_end, False)
    pump = Pump(read_end, log)
    written = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        for _ in range(100_000):
            if disk.entered.acquire(blocking=False):
                break
            with suppress(BlockingIOError):
                written += os.write(write_end, b"x" * 4096)
            mock_clock.jump(1)
            await RUN_IN_THREAD(int)
        nursery.cancel_scope.cancel()
    assert written > SMALLEST
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.finish)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(FINISH_SECONDS)
    assert log.kept + log.lost + log.dropped == written
    assert "nobody could tell" not in caplog.text
    await released(disk)
    while punchers.borrowed_tokens:
        await RUN_IN_THREAD(int)
    await pump.close()
    os.close(write_end)


async def finish_cancelled(pump: Pump, disk: Disk) -> None:
    """Cancels the end as a whole while the disk holds it up, as the deadline of a step of the job's end does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.finish)
        await in_real_time(within(disk.entered))
        nursery.cancel_scope.cancel()


async def test_an_end_that_is_cancelled_counts_what_it_leaves(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """Bytes that a move had found count as lost where the end is cancelled around it; its thread closes the files."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"held up")
        await finish_cancelled(pump, disk)
        assert (log.size, log.lost, log.left_in_pipe) == (0, 7, 7)
        await pump.close()
        await released(disk)
        assert disk.closed.acquire(blocking=False)
        assert (log.size, log.lost) == (0, 7), "what is counted stays"


async def test_an_end_that_is_cancelled_before_it_begins(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """What nobody had begun to move counts as lost too, and both descriptors are closed by a close that is cancelled."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        disk.released.set()
        os.write(write_end, b"not moved")
        with trio.CancelScope() as scope:
            scope.cancel()
            await pump.finish()
        assert (log.size, log.lost, log.left_in_pipe) == (0, 9, 9)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pump.close()
        assert disk.closed.acquire(blocking=False)
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"nobody reads")


async def test_a_hand_over_that_is_cancelled_closes_what_it_has(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """A move that is held up while a hand-over is cancelled is left to its thread, with the descriptors."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"held up")
        await hold_up(pump, disk)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pump.hand_over()
        await pump.close()
        assert log.lost == 0
        await released(disk)
        assert disk.closed.acquire(blocking=False)


async def test_what_is_abandoned_is_the_threads_to_close(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """A pump that has left its move to a thread closes nothing itself: the numbers may be other files' by then."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"held up")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.finish)
            await in_real_time(within(disk.entered))
            mock_clock.jump(FINISH_SECONDS)
        await pump.close()
        os.fstat(log.fd)
        assert log.lost == len(b"held up")
        assert not disk.closed.acquire(blocking=False)
        await released(disk)
        assert disk.closed.acquire(blocking=False)


async def test_a_file_system_without_splice_is_asked_once(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where splice is refused, every later move copies at once."""
    refusals = 0

    def refuse(*_: object, **__: object) -> int:
        nonlocal refusals
        refusals += 1
        raise OSError(errno.EINVAL, "no splice")

    monkeypatch.setattr(disk, "splice", refuse)
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for size in (1, 2, 3):
                os.write(write_end, b"x")
                await grown(log, size)
            nursery.cancel_scope.cancel()
        await end(pump)
    assert refusals == 1


async def test_a_pipe_that_tells_nothing(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a writer holds the pipe so that nobody learns what is in it, the end waits no longer, and claims no loss."""

    def held(_: int) -> int:
        disk.wait()
        return 0

    monkeypatch.setattr(moving, "bytes_in", held)
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"unknown")
        await hold_up(pump, disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.finish)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(FINISH_SECONDS)
        assert (log.size, log.lost) == (0, 0)
        await released(disk)
        assert disk.closed.acquire(blocking=False)


async def test_a_disk_that_answers_in_time(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """A move that was held up and ends before the deadline is counted as it ended, though nobody waited meanwhile."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"late")
        await hold_up(pump, disk)
        disk.released.set()
        await pump.finish()
        assert (log.size, log.lost) == (4, 0)
        assert log.path.read_bytes() == b"late"


async def test_moves_that_are_held_up_take_nobody_elses_thread(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """More jobs on a stalled disk than there are pump threads keep the output of another only STALL_SECONDS waiting."""
    threads = int(moving.PUMPS.total_tokens)
    with ExitStack() as stack:
        ends = [stack.enter_context(job(tmp_path / f"{number}.log", disk)) for number in range(threads + 8)]
        well, log, write_end = stack.enter_context(job(tmp_path / "well.log", disk, is_held=False))
        for _, _, end in ends:
            os.write(end, b"held up")
        os.write(write_end, b"well")
        async with trio.open_nursery() as nursery:
            for pump, _, _ in ends:
                nursery.start_soon(pump.run)
            await in_real_time(lambda: all(within(disk.entered)() for _ in range(threads)))
            nursery.start_soon(well.run)
            await trio.testing.wait_all_tasks_blocked()
            assert log.size == 0
            mock_clock.jump(STALL_SECONDS)
            await grown(log, 4)
            disk.released.set()
            for _, held_log, _ in ends:
                await grown(held_log, 7)
            nursery.cancel_scope.cancel()
        for pump in (well, *(pump for pump, _, _ in ends)):
            await pump.finish()
    assert moving.PUMPS.total_tokens == threads


async def test_the_jobs_of_one_client_do_not_take_all_threads(tmp_path: Path, disk: Disk) -> None:
    """More jobs of a client than there are pump threads, which hold all of theirs up, delay another's output by nothing."""
    threads, shares = int(moving.PUMPS.total_tokens), Shares()
    with ExitStack() as stack:
        ends = [stack.enter_context(job(tmp_path / f"{number}.log", disk)) for number in range(threads + 8)]
        well, log, write_end = stack.enter_context(job(tmp_path / "well.log", disk, is_held=False))
        well.share = shares.of("client2")
        async with trio.open_nursery() as nursery:
            for pump, _, end in ends:
                pump.share = shares.of("client1")
                os.write(end, b"held up")
                nursery.start_soon(pump.run)
            await in_real_time(lambda: all(within(disk.entered)() for _ in range(PUMPS_OF_CLIENT)))
            os.write(write_end, b"well")
            nursery.start_soon(well.run)
            await grown(log, 4)
            while moving.PUMPS.borrowed_tokens > PUMPS_OF_CLIENT:  # the other's thread has come to its end
                await RUN_IN_THREAD(int)
            assert moving.PUMPS.borrowed_tokens == PUMPS_OF_CLIENT
            disk.released.set()
            for _, held_log, _ in ends:
                await grown(held_log, 7)
            nursery.cancel_scope.cancel()
        for pump in (well, *(pump for pump, _, _ in ends)):
            await pump.finish()


async def test_the_last_bytes_wait_for_no_other_job(tmp_path: Path, disk: Disk) -> None:
    """At a job's end what is in its pipe is moved, whatever other jobs of the client have all of its threads."""
    with job(tmp_path / "one.log", disk, is_held=False) as (pump, log, write_end):
        pump.share = trio.CapacityLimiter(1)
        pump.share.acquire_on_behalf_of_nowait("another job")
        os.write(write_end, b"the last bytes")
        await pump.finish()
        assert (log.kept, log.lost) == (14, 0)


async def end(pump: Pump) -> None:
    """What a supervisor does with a pump in the end."""
    await pump.finish()
    await pump.close()


async def grown(log: OutputLog, size: int) -> None:
    """Waits until a log has so many bytes."""
    while log.size < size:
        await log.wait_growth()


async def test_a_close_that_does_not_end(tmp_path: Path, disk: Disk, mock_clock: Clock) -> None:
    """A file system whose close waits for its server holds up the end for FINISH_SECONDS, and costs no byte."""
    disk.holds_close = True
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"kept")
        disk.released.set()
        await pump.finish()
        disk.released.clear()
        while disk.entered.acquire(blocking=False):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.close)
            await in_real_time(within(disk.entered))
            mock_clock.jump(FINISH_SECONDS)
        assert (log.size, log.lost) == (4, 0)
        assert pump.left_threads.count == 1
        disk.released.set()
        assert disk.closed.acquire(timeout=REAL_SECONDS)
        while pump.left_threads.count:
            await RUN_IN_THREAD(int)


async def test_a_file_that_is_written_back_is_no_stuck_thread(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that goes on after it has closed everything counts for no job."""

    def write_back(fd: int, *_: object) -> None:
        disk.wait()
        os.close(fd)

    monkeypatch.setattr(closing_module, "write_back", write_back)
    monkeypatch.setattr(closing_module, "SYNCED_FROM", 1)
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        os.write(write_end, b"kept")
        await pump.finish()
        log.seal()
        await pump.close()
        await in_real_time(within(disk.entered))
        assert pump.left_threads.count == 0
        disk.released.set()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
async def test_a_close_that_fails(tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, number: int) -> None:
    """What the file system says when the file is closed is told to the operator, and hinders nothing."""
    disk.close_error = number
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        disk.released.set()
        os.write(write_end, b"kept")
        await end(pump)
        assert (log.size, log.lost) == (4, 0)
        assert f"the output of a job may be incomplete: {os.strerror(number)}" in caplog.text


async def test_a_writer_that_never_stops(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that outlives its job and writes on does not keep the pump from its end."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        written = [os.write(write_end, b"first")]

        def splice(source: int, target: int, count: int, *, offset_dst: int) -> int:
            moved = os.splice(source, target, count, offset_dst=offset_dst)
            written.append(os.write(write_end, b"more"))
            return moved

        monkeypatch.setattr(disk, "splice", splice)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.finish)
            await grown(log, 500)
            mock_clock.jump(FINISH_SECONDS)
        assert 500 <= log.size <= log.size + log.lost <= sum(written)


# --- no threads -------------------------------------------------------------------------------------------------------


async def test_no_thread_for_a_while(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's fork bomb under TasksMax delays the output; it neither ends the pump nor costs a byte."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        refuse_threads(monkeypatch, 20)
        os.write(write_end, b"late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
                assert (log.size, log.lost) == (0, 0)
                mock_clock.jump(1)  # the longest pause
            await grown(log, 4)
            nursery.cancel_scope.cancel()
        await pump.finish()
        assert (log.path.read_bytes(), log.lost) == (b"late", 0)


async def test_no_thread_at_the_end(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the host has none, a spare one counts what is in the pipe as lost, and closes the descriptors."""
    spare = threads.SpareThread()
    spare.keep()
    while spare._waiting is None:
        await trio.lowlevel.checkpoint()
    monkeypatch.setattr(threads, "SPARE", spare)
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"lost")
        refuse_threads(monkeypatch, 10**9)
        disk.released.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, pump)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(FINISH_SECONDS)
        assert (log.size, log.lost, log.left_in_pipe) == (0, 4, 4)
        assert disk.closed.acquire(timeout=REAL_SECONDS)


async def test_no_thread_at_all(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that takes the lock of the pipe is done on the event loop: it is closed when there is a thread.

    How much is in it is not known then, and the operator is told so.
    """
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        os.write(write_end, b"unknown")
        refuse_threads(monkeypatch, 10**9)
        disk.released.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, pump)
            for _ in range(6):
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(FINISH_SECONDS)
        assert (log.lost, pump.left_threads.count) == (0, 1)
        assert "nobody could tell" in caplog.text
        assert os.write(write_end, b"is open") == 7
        await trio.testing.wait_all_tasks_blocked()
        refuse_threads(monkeypatch, 0)
        mock_clock.jump(1)
        await in_real_time(within(disk.closed))
        while pump.left_threads.count:
            await RUN_IN_THREAD(int)
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"nobody reads")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory")])
async def test_a_pipe_that_cannot_be_read_for_a_while(
    tmp_path: Path, disk: Disk, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Want of memory for a read delays the output, and costs none."""
    failed = threading.Semaphore(0)
    failures = [error] * 3

    def read(descriptor: int, count: int) -> bytes:
        if failures:
            failed.release()
            raise failures.pop()
        return os.read(descriptor, count)

    def no_splice(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "no splice here")

    monkeypatch.setattr(disk, "splice", no_splice)
    monkeypatch.setattr(disk, "read", read, raising=False)
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        os.write(write_end, b"late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for _ in range(3):
                await in_real_time(within(failed))
                await asleep(mock_clock)
                mock_clock.jump(1)
            await grown(log, 4)
            nursery.cancel_scope.cancel()
        os.write(write_end, b", and last")
        await pump.finish()
        assert (log.path.read_bytes(), log.lost) == (b"late, and last", 0)


async def asleep(clock: Clock) -> None:
    """Waits until a task has a pause of at most a second before it, and no thread is on its way."""
    while moving.PUMPS.borrowed_tokens or not trio.lowlevel.current_statistics().seconds_to_next_deadline <= 1:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()


async def test_a_host_without_threads_is_asked_ever_less_often(
    tmp_path: Path, disk: Disk, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pump waits twice as long after each refusal, at most a second, and begins anew once it had a thread."""
    refused_at: list[float] = []

    async def run_in_thread(_: trio.CapacityLimiter, move: Callable[[], None], *, abandon: bool) -> None:
        await trio.lowlevel.checkpoint()
        if len(refused_at) not in {8, 11}:
            refused_at.append(trio.current_time())
            raise NoThread("none")
        move()
        refused_at.append(trio.current_time())

    monkeypatch.setattr(pump_module, "run_in_thread", run_in_thread)
    monkeypatch.setattr(threads, "run_in_thread", run_in_thread)
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        os.write(write_end, b"late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await grown(log, 4)
            os.write(write_end, b"again")
            await grown(log, 9)
            nursery.cancel_scope.cancel()
        pauses = [later - earlier for earlier, later in pairwise(refused_at)]
        first = pauses[0]
        assert pauses[:8] == pytest.approx([min(first * 2**number, 1.0) for number in range(8)])
        assert max(pauses) == pytest.approx(1.0)
        assert pauses[9:11] == pytest.approx([first, 2 * first])
        monkeypatch.undo()
        await end(pump)


# --- a job that writes little -----------------------------------------------------------------------------------------


async def test_a_job_that_writes_nothing_costs_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread looks into a pipe that is empty."""
    moves = 0

    def splice(source: int, target: int, count: int, *, offset_dst: int) -> int:
        nonlocal moves
        moves += 1
        return os.splice(source, target, count, offset_dst=offset_dst)

    monkeypatch.setattr(disk, "splice", splice)
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for _ in range(20):
                await RUN_IN_THREAD(int)
            assert moves == 0
            os.write(write_end, b"a word")
            await grown(log, 6)
            nursery.cancel_scope.cancel()
        await end(pump)


@pytest.mark.parametrize(("size", "waits"), [(1, True), (64 * KIB - 1, True), (64 * KIB, False)])
async def test_small_pieces_are_gathered(tmp_path: Path, disk: Disk, mock_clock: Clock, size: int, waits: bool) -> None:
    """After less than 64 KiB, moved at once, the next bytes are moved 2 ms later; after more, at once as well."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            os.write(write_end, bytes(size))
            await grown(log, size)
            os.write(write_end, b"more")
            if waits:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert log.size == size
                mock_clock.jump(0.002)
            await grown(log, size + 4)
            nursery.cancel_scope.cancel()
        await end(pump)


# --- one move ---------------------------------------------------------------------------------------------------------


async def test_a_move_that_is_withdrawn_is_not_made(tmp_path: Path, disk: Disk) -> None:
    """A move that no thread has begun can be taken back; one that comes too late does nothing."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        os.write(write_end, b"data")
        move = moving.Move(pump._sources[0], log, splice=True)
        assert move.withdraw()
        await trio.to_thread.run_sync(move.run)
        assert not move.done.is_set()
        await pump.finish()
        assert (log.size, log.lost) == (4, 0)


def taken_by(move: moving.Move) -> int | None:
    """How many bytes it has taken."""
    assert move.result is not None
    return move.result.taken


async def test_a_move_that_ends_as_it_is_abandoned(tmp_path: Path, disk: Disk) -> None:
    """A move whose thread has ended and whose result the loop has not yet seen is brought to the log, once."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        os.write(write_end, b"data")
        move = moving.Move(pump._sources[0], log, splice=True)
        move.run()
        assert not move.withdraw()
        assert move.abandon(LeftThreads()) is None
        assert (log.size, log.lost, taken_by(move)) == (4, 0, 4)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (log.size, log.lost) == (4, 0)
        await pump.finish()


# --- bugs -------------------------------------------------------------------------------------------------------------


def fail_once(monkeypatch: pytest.MonkeyPatch, what: type, method: str, disk: Disk) -> None:
    """The next call fails as nobody expects, once the disk is released where it is held."""
    right = getattr(what, method)

    def fail(*_: object) -> None:
        monkeypatch.setattr(what, method, right)
        if disk.held:
            disk.wait()
        raise ValueError("a bug, scripted")

    monkeypatch.setattr(what, method, fail)


async def test_a_bug_in_a_move(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mock_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the pump goes on: no byte is missing."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        fail_once(monkeypatch, transfer.Transfer, "run", disk)
        os.write(write_end, b"hello")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            while log.size < 5:
                mock_clock.jump(0.05)
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        await end(pump)
        assert (log.size, log.lost) == (5, 0)
    assert "a bug, scripted" in caplog.text


async def test_a_bug_in_a_move_that_is_abandoned(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mock_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged as well, and the thread closes what was left to it."""
    with job(tmp_path / "log", disk) as (pump, log, write_end):
        fail_once(monkeypatch, transfer.Transfer, "run", disk)
        os.write(write_end, b"hello")
        await finish_cancelled(pump, disk)
        await pump.close()
        disk.released.set()
        await in_real_time(within(disk.closed))
        assert (log.size, log.lost) == (0, 5)
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"nobody reads")
    assert "a bug, scripted" in caplog.text


async def test_a_bug_in_a_drop(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mock_clock: Clock) -> None:
    """What was to be dropped is kept for now, and what comes is kept too."""
    with job(tmp_path / "log", disk, is_held=False) as (pump, log, write_end):
        log.cap = Cap(SMALLEST)
        fail_once(monkeypatch, moving.Drop, "_work", disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for count in range(1, 8):
                os.write(write_end, bytes(60 * KIB))
                await grown(log, count * 60 * KIB)
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(log_module.RETRY_SECONDS)
            nursery.cancel_scope.cancel()
        await end(pump)
        assert (log.size, log.lost) == (7 * 60 * KIB, 0)
        assert log.dropped > 0
