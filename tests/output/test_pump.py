"""The pump, with real pipes and files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest
import trio
from trio.testing import MockClock

from jobmaster import threads
from jobmaster.output import log as log_module
from jobmaster.output import moving
from jobmaster.output import pump as pump_module
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.log import RETRY_SECONDS, OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.threads import run_in_thread
from tests.output.stretches import bytes_of

T = TypeVar("T")

DEADLINE: Final = 60.0
MIB: Final = 2**20
SAMPLES: Final = {
    "nothing": b"",
    "one byte": b"x",
    "NULs": bytes(5),
    "no final newline, every byte": bytes(range(256)),
    "more than the pipe": hashlib.shake_128(b"").digest(3 * MIB),
}


@pytest.fixture
def log(tmp_path: Path) -> OutputLog:
    """A fresh log; its pump closes it."""
    return OutputLog(tmp_path / "job.log")


class Line:
    """A pump on a log and the job's end of its pipe."""

    def __init__(self, log: OutputLog) -> None:
        self.log = log
        self.read_end, self.job_end = open_pipe()
        self.pump = Pump(self.read_end, log)
        self.job_is_open = True
        self.is_finished = False

    def write(self, data: bytes) -> None:
        """Blocks, as a job does, while the pipe is full."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.job_end, view) :]

    async def finish(self) -> None:
        """Ends the pump, within the test's deadline."""
        self.is_finished = True
        with trio.fail_after(DEADLINE):
            await self.pump.finish()
            await self.pump.close()

    def hang_up(self) -> None:
        """The last writer closes."""
        os.close(self.job_end)
        self.job_is_open = False


@pytest.fixture
def line(log: OutputLog) -> Iterator[Line]:
    """A pump that does not run yet."""
    fresh = Line(log)
    yield fresh
    if not fresh.is_finished:
        os.close(fresh.read_end)
        os.close(log.fd)
    if fresh.job_is_open:
        fresh.hang_up()


async def pump_all(line: Line, data: bytes) -> None:
    """Pumps while a job writes `data`, to the end."""

    def job() -> None:
        line.write(data)
        line.hang_up()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.pump.run)
            await trio.to_thread.run_sync(job, abandon_on_cancel=True)


async def collect(log: OutputLog, seen: bytearray) -> None:
    """Follows to the end."""
    async with aclosing(log.follow()) as stretches:
        async for stretch in stretches:
            seen += await bytes_of(stretch)


def redirect(log: OutputLog, path: str | Path, flags: int) -> None:
    """Makes a log write to something else."""
    os.close(log.fd)
    log.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)


@pytest.mark.parametrize("sample", SAMPLES)
async def test_every_byte_arrives(log: OutputLog, line: Line, sample: str) -> None:
    """The file has what was written, byte for byte, and the log counts it."""
    await pump_all(line, SAMPLES[sample])
    assert log.path.read_bytes() == SAMPLES[sample]
    assert (log.size, log.lost) == (len(SAMPLES[sample]), 0)


@pytest.mark.parametrize("sample", SAMPLES)
async def test_every_byte_arrives_without_splice(log: OutputLog, line: Line, sample: str) -> None:
    """Where the file refuses splice, as one opened for appending does (EINVAL), bytes are copied; none is missing."""
    redirect(log, log.path, os.O_APPEND)
    probe, probe_end = os.pipe()
    os.write(probe_end, b"x")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.splice(probe, log.fd, 1, offset_dst=0)
    os.close(probe)
    os.close(probe_end)
    await pump_all(line, SAMPLES[sample])
    assert log.path.read_bytes() == SAMPLES[sample]
    assert (log.size, log.lost) == (len(SAMPLES[sample]), 0)


@pytest.mark.parametrize("data", [b"", b"all of it is moved by then"])
async def test_the_end_takes_no_thread(
    log: OutputLog, line: Line, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty pipe that every writer has closed is known to be at its end without a thread, also when the job has ended."""
    limiters: list[trio.CapacityLimiter] = []

    async def run(limiter: trio.CapacityLimiter, function: Callable[..., T], *args: object, abandon: bool) -> T:
        limiters.append(limiter)
        return await run_in_thread(limiter, function, *args, abandon=abandon)

    monkeypatch.setattr(pump_module, "run_in_thread", run)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.pump.run)
            line.write(data)
            while log.kept < len(data):
                await trio.testing.wait_all_tasks_blocked()
            line.hang_up()
    await line.finish()
    assert limiters.count(moving.PUMPS) == bool(data)


async def test_short_writes_are_continued(log: OutputLog, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that the kernel takes in parts, as write(2) may, puts each part behind the one before."""
    whole_write = os.pwrite

    def no_splice(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def short_write(fd: int, data: memoryview, offset: int) -> int:
        return whole_write(fd, data[:5000], offset)

    monkeypatch.setattr(os, "splice", no_splice)
    monkeypatch.setattr(os, "pwrite", short_write)
    await pump_all(line, SAMPLES["more than the pipe"])
    assert log.path.read_bytes() == SAMPLES["more than the pipe"]


async def test_followers_see_it_live(log: OutputLog, line: Line) -> None:
    """Followers that came before the first byte get all of it while it is pumped."""
    data = SAMPLES["more than the pipe"]
    seen = [bytearray() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for buffer in seen:
            nursery.start_soon(collect, log, buffer)
        await pump_all(line, data)
        log.seal()
    assert all(buffer == data for buffer in seen)


async def test_many_small_writes(log: OutputLog, line: Line) -> None:
    """A job that writes byte by byte loses none."""
    pieces = [bytes([number % 256]) for number in range(2000)]

    def job() -> None:
        for piece in pieces:
            line.write(piece)
        line.hang_up()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.pump.run)
            await trio.to_thread.run_sync(job)
    assert log.path.read_bytes() == b"".join(pieces)


async def test_the_pump_runs_until_the_last_writer_closes(log: OutputLog, line: Line) -> None:
    """A second holder of the pipe keeps the pump going after the first one has closed."""
    second = os.dup(line.job_end)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.pump.run)
            line.write(b"first ")
            line.hang_up()
            os.write(second, b"second")
            os.close(second)
    assert log.path.read_bytes() == b"first second"


async def test_finishing_does_not_wait_for_a_writer(log: OutputLog, line: Line) -> None:
    """What is in the pipe is moved, though a writer holds it open and has more to say; that writer has EPIPE."""
    line.write(b"so far")
    await line.finish()
    assert log.path.read_bytes() == b"so far"
    assert (log.size, log.lost) == (6, 0)
    with pytest.raises(BrokenPipeError):
        line.write(b", and more")


@pytest.mark.parametrize("sample", ["nothing", "one byte", "no final newline, every byte"])
async def test_finishing_a_closed_pipe(log: OutputLog, line: Line, sample: str) -> None:
    """Finishing after the last writer has closed moves what is left; both descriptors are closed."""
    line.write(SAMPLES[sample])
    line.hang_up()
    theirs = (line.read_end, log.fd)
    await line.finish()
    assert log.path.read_bytes() == SAMPLES[sample]
    assert not any(is_open(number) for number in theirs)


def is_open(descriptor: int) -> bool:
    """Whether a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_closing_again_closes_nothing_else(log: OutputLog, line: Line, tmp_path: Path) -> None:
    """A second close leaves alone what has the descriptors' numbers by then."""
    theirs = {line.read_end, log.fd}
    await line.finish()
    others = [os.open(tmp_path, os.O_RDONLY) for _ in range(10)]
    assert theirs <= {*others}
    await line.pump.close()
    assert all(is_open(other) for other in others)
    for other in others:
        os.close(other)


async def test_a_cancelled_pump_loses_nothing(log: OutputLog, line: Line) -> None:
    """Wherever the pump is cancelled, nothing is missing or twice: the next move waits for the one under way."""
    pieces = [hashlib.shake_128(bytes([number])).digest(number * 101) for number in range(60)]
    with trio.fail_after(DEADLINE):
        for number, piece in enumerate(pieces):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.pump.run)
                line.write(piece)
                for _ in range(number % 5):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    await line.finish()
    assert log.path.read_bytes() == b"".join(pieces)
    assert log.size == sum(map(len, pieces))


async def test_a_full_disk_does_not_block_the_job(log: OutputLog, line: Line) -> None:
    """When nothing can be written (ENOSPC), the pipe is emptied all the same and every byte is counted as lost."""
    redirect(log, "/dev/full", 0)
    data = SAMPLES["more than the pipe"]
    await pump_all(line, data)
    assert (log.size, log.lost) == (0, len(data))


@contextmanager
def file_size_limit(count: int) -> Iterator[None]:
    """In this block files cannot grow beyond `count` bytes (EFBIG; Python ignores SIGXFSZ)."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["splice", "copy"])
async def test_a_disk_that_fills_up(log: OutputLog, line: Line, flags: int) -> None:
    """What fits is kept, the rest is counted as lost, and followers have what was kept and then the end."""
    redirect(log, log.path, flags)
    data, fits = SAMPLES["more than the pipe"], MIB + 123
    with file_size_limit(fits):
        await pump_all(line, data)
    assert (log.size, log.lost) == (fits, len(data) - fits)
    log.seal()
    seen = bytearray()
    await collect(log, seen)
    assert seen == data[:fits]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads take no time, so that the clock may jump."""

    async def run(_: trio.CapacityLimiter, function: Callable[..., T], *args: object, abandon: bool = False) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)

    for module in (pump_module, threads):
        monkeypatch.setattr(module, "run_in_thread", run)


async def test_a_disk_that_has_room_again(log: OutputLog, line: Line, at_once: None, autojump_clock: MockClock) -> None:
    """What comes RETRY_SECONDS after a loss is kept, at its offset; until then nothing is tried; what is between is a gap."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.pump.run)
        line.write(b"kept")
        await trio.sleep(1)
        with file_size_limit(4):
            line.write(b"lost")
            await trio.sleep(RETRY_SECONDS / 2)
        line.write(b"lost too")
        await trio.sleep(RETRY_SECONDS / 2 + 0.1)
        assert (log.kept, log.lost) == (4, 12)
        line.write(b"kept too")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await line.finish()
    log.seal()
    seen = bytearray()
    await collect(log, seen)
    assert (bytes(seen), log.size, log.lost, log.end) == (b"keptkept too", 24, 12, 24)
    assert log.path.read_bytes() == b"kept" + bytes(12) + b"kept too"


async def test_a_disk_that_stays_full_is_one_gap(
    log: OutputLog, line: Line, at_once: None, autojump_clock: MockClock
) -> None:
    """However often it is tried, what is lost in a row is one gap, and the file ends before it."""
    fits = b"x" * 50_000  # more than an index has by then
    with file_size_limit(len(fits)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.pump.run)
            line.write(fits)
            for _ in range(5):
                await trio.sleep(2 * RETRY_SECONDS)
                line.write(b"lost")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert (log.path.read_bytes(), log.kept, log.lost) == (fits, len(fits), 20)
    assert log.index is not None
    assert not any(isinstance(run.what, GapReason) for run in log.index.view.runs(0))
    await line.finish()


async def test_two_pipes(log: OutputLog, at_once: None, autojump_clock: MockClock) -> None:
    """Of stdout and stderr that have a pipe each, all comes in its order of arrival, each byte with its stream."""
    (out_read, out), (err_read, err) = open_pipe(), open_pipe()
    pump = Pump(out_read, log, stderr=err_read)
    pieces = [
        (out, b"out 1\n"),
        (err, b"err 1\n"),
        (err, b"err 2\n"),
        (out, b"out 2\n"),
        (out, b"out 3\n"),
        (err, b"e"),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        for end, piece in pieces[:-1]:
            os.write(end, piece)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    os.write(err, b"e")
    await pump.finish()
    assert log.path.read_bytes() == b"".join(piece for _, piece in pieces)
    assert log.index is not None
    assert [(run.start, run.what) for run in log.index.view.runs(0)] == [
        (0, Stream.STDOUT),
        (6, Stream.STDERR),
        (18, Stream.STDOUT),
        (30, Stream.STDERR),
    ]
    await pump.close()
    for end in (out, err):
        with pytest.raises(BrokenPipeError):
            os.write(end, b"x")
        os.close(end)


async def test_two_pipes_run_until_both_are_closed(log: OutputLog) -> None:
    """The end of one of them does not end the other."""
    (out_read, out), (err_read, err) = open_pipe(), open_pipe()
    pump = Pump(out_read, log, stderr=err_read)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            os.close(out)
            await trio.sleep(0.01)
            os.write(err, b"still here")
            os.close(err)
    await pump.finish()
    await pump.close()
    assert (log.path.read_bytes(), log.lost) == (b"still here", 0)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a thread brings about."""
    while not condition():
        await trio.lowlevel.checkpoint()


def test_the_ends_of_the_pipe() -> None:
    """The pump's end never blocks, the job's end does, and neither is inherited."""
    read_end, write_end = open_pipe()
    assert (os.get_blocking(read_end), os.get_blocking(write_end)) == (False, True)
    assert not os.get_inheritable(read_end)
    assert not os.get_inheritable(write_end)
    os.close(read_end)
    os.close(write_end)


def test_how_far_a_job_can_be_ahead() -> None:
    """A job can write a mebibyte before the pump has moved a byte, where the kernel grants that."""
    read_end, write_end = os.pipe()
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, MIB)
    except PermissionError:
        pytest.skip("this user's pipe quota is used up")
    finally:
        os.close(read_end)
        os.close(write_end)
    read_end, write_end = open_pipe()
    os.set_blocking(write_end, False)
    assert os.write(write_end, bytes(2 * MIB)) == MIB
    os.close(read_end)
    os.close(write_end)


def test_a_pipe_beyond_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel grants no larger pipe (EPERM), the usual one does."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "fcntl", refused)
    read_end, write_end = open_pipe()
    os.write(write_end, b"works")
    assert os.read(read_end, 10) == b"works"
    os.close(read_end)
    os.close(write_end)


async def test_a_writer_that_comes_after_the_last_one(line: Line) -> None:
    """What a job writes that has reopened its pipe, of which every writer had gone, is kept at its end."""
    line.write(b"first ")
    line.hang_up()
    with trio.fail_after(DEADLINE):
        await line.pump.run()
    with Path(f"/proc/self/fd/{line.read_end}").open("wb") as reopened:
        reopened.write(b"second")
    await line.finish()
    assert (line.log.path.read_bytes(), line.log.size, line.log.lost) == (b"first second", 12, 0)


async def test_a_drop_under_way_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job wrote last is kept, though it ended while its pump waited for a thread to drop what is too much."""
    punchers = trio.CapacityLimiter(1)
    monkeypatch.setattr(moving, "PUNCHERS", punchers)
    log = OutputLog(tmp_path / "job.log", Cap(SMALLEST))
    read_end, write_end = open_pipe()
    pump = Pump(read_end, log)
    punchers.acquire_on_behalf_of_nowait("another job")
    data = bytes(index % 251 for index in range(3 * SMALLEST))
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            os.write(write_end, data)
            while not punchers.statistics().tasks_waiting:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        punchers.release_on_behalf_of("another job")
        os.close(write_end)
        await pump.finish()
    log.seal()
    await pump.close()
    assert (log.size, log.lost) == (len(data), 0)
    kept, head = log.path.read_bytes(), SMALLEST // 4
    assert (kept[:head], kept[log.dropped_range[1] :]) == (data[:head], data[log.dropped_range[1] :])
    assert log.kept <= SMALLEST


async def test_a_drop_that_no_thread_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is announced as dropped that is not; what is too much meanwhile is a gap, and is dropped again later."""
    monkeypatch.setattr(pump_module, "STALL_SECONDS", 0.01)
    monkeypatch.setattr(log_module, "RETRY_SECONDS", 0.05)
    punchers = trio.CapacityLimiter(1)
    monkeypatch.setattr(moving, "PUNCHERS", punchers)
    log = OutputLog(tmp_path / "job.log", Cap(SMALLEST))
    read_end, write_end = open_pipe()
    pump = Pump(read_end, log)
    punchers.acquire_on_behalf_of_nowait("another job")

    async def write(size: int) -> None:
        for _ in range(size // 65536):
            end = log.end + os.write(write_end, b"x" * 65536)
            while log.end < end:
                await trio.sleep(0.001)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await write(2 * SMALLEST)
            assert (log.dropped_range, log.end) == ((0, 0), 2 * SMALLEST)
            punchers.release_on_behalf_of("another job")
            await trio.sleep(0.05)
            while log.dropped_range == (0, 0):
                await write(65536)
            nursery.cancel_scope.cancel()
    assert log.kept + log.lost + log.dropped == log.end
    await pump.finish()
    log.seal()
    await pump.close()
    os.close(write_end)
