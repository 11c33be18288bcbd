"""Outputs with a cap, on real files: what is kept, what it takes of the disk, and what followers see."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from jobmaster import threads
from jobmaster.output import dropping
from jobmaster.output import pump as pump_module
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.dropping import DropPlan
from jobmaster.output.files import index_path
from jobmaster.output.holes import can_punch
from jobmaster.output.index import Stream
from jobmaster.output.log import RETRY_SECONDS, OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.output.reading import Piece, Selection
from tests.output.stretches import bytes_of

T = TypeVar("T")

CAP = Cap(SMALLEST)
ROOM = 64 * 1024
"""Of the disk, for the index and what a file system adds."""


@pytest.fixture(autouse=True)
def punching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that makes holes, and threads that take no time."""
    fd = os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT)
    offered = can_punch(fd)
    os.close(fd)
    if not offered:
        pytest.skip("this file system makes no holes")

    async def run(_: trio.CapacityLimiter, function: Callable[..., T], *args: object, abandon: bool = False) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)

    for module in (pump_module, threads):
        monkeypatch.setattr(module, "run_in_thread", run)


def sample(size: int) -> bytes:
    """Bytes without a pattern."""
    return hashlib.shake_128(b"dropping").digest(size)


class Job:
    """A job that writes, with its pump."""

    def __init__(self, path: Path, cap: Cap | None = CAP) -> None:
        self.log = OutputLog(path, cap)
        read_end, self.end = open_pipe()
        os.set_blocking(self.end, False)
        self.pump = Pump(read_end, self.log)
        self.written = b""

    async def write(self, data: bytes) -> None:
        """Writes, and has it moved."""
        self.written += data
        view = memoryview(data)
        while view:
            view = view[os.write(self.end, view) :]
            while await self.pump._move_some(self.pump._sources[0]) is not None:
                pass

    async def end_all(self) -> None:
        """Ends it."""
        os.close(self.end)
        await self.pump.finish()
        self.log.seal()
        await self.pump.close()

    def on_disk(self) -> int:
        """Bytes that its file takes."""
        return self.log.path.stat().st_blocks * 512

    def expected(self) -> bytes:
        """What is kept of what it wrote, by the log's own word."""
        start, end = self.log.dropped_range
        return self.written[:start] + self.written[end : self.log.size]


async def read_all(output: object) -> bytes:
    """Follows to the end."""
    stretches = output.follow()  # type: ignore[attr-defined]  # a log or what is stored of one
    return b"".join([await bytes_of(stretch) async for stretch in stretches])


async def test_head_and_tail(tmp_path: Path) -> None:
    """Of an output of many times its cap, the first quarter and the newest rest are kept, within cap and chunk."""
    job = Job(tmp_path / "job.log")
    for start in range(0, 2 * 2**20, 50_000):
        await job.write(sample(2 * 2**20)[start : start + 50_000])
        assert job.on_disk() <= CAP.size + CAP.chunk + ROOM
        assert job.log.kept <= CAP.size + CAP.chunk
        assert job.log.kept + job.log.dropped == len(job.written)
    await job.end_all()
    log = job.log
    assert log.dropped_range[0] == CAP.head == SMALLEST // 4
    assert log.lost == 0
    assert CAP.size - CAP.chunk <= log.kept <= CAP.size + CAP.chunk
    for output in (log, log.stored()):
        assert await read_all(output) == job.expected()
    assert len(job.expected()) == log.kept


async def test_an_output_within_its_cap(tmp_path: Path) -> None:
    """To the last byte of its cap, an output is kept whole."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(CAP.size))
    await job.end_all()
    assert (job.log.kept, job.log.dropped) == (CAP.size, 0)
    assert await read_all(job.log.stored()) == job.written


async def test_a_server_that_follows(tmp_path: Path) -> None:
    """What was dropped stays so for a server that goes on, and what was held back then is given back."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(3 * CAP.size))
    before = job.log.kept, job.log.dropped, job.log.dropped_range
    job.log.close()
    followed = OutputLog.reopen(tmp_path / "job.log", lost=0, cap=CAP)
    assert (followed.kept, followed.dropped, followed.dropped_range) == before
    job.log = job.pump._log = followed
    await job.write(sample(2 * CAP.size))
    await job.end_all()
    assert job.on_disk() <= CAP.size + CAP.chunk + ROOM
    assert await read_all(followed.stored()) == job.expected()


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "ended"])
async def test_what_was_dropped_without_an_index(tmp_path: Path, is_running: bool) -> None:
    """Where the index is gone, the file tells what was dropped, to a server that goes on and of a job that has ended."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(3 * CAP.size))
    log, expected = job.log, job.expected()
    before = log.kept, log.dropped, log.dropped_range
    log.close()
    index_path(log.path).unlink()
    if not is_running:
        assert await read_all(log.stored()) == expected
        return
    followed = OutputLog.reopen(log.path, lost=0, dropped=log.dropped, cap=CAP)
    assert (followed.kept, followed.dropped, followed.dropped_range) == before
    job.log = job.pump._log = followed
    await job.write(sample(2 * CAP.size))
    await job.end_all()
    assert await read_all(followed.stored()) == job.expected()


async def test_a_follower_pins_what_it_is_sent(tmp_path: Path) -> None:
    """A range that was announced to a follower is read as it was, though it is dropped meanwhile; then it is given back."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(CAP.size))
    async with aclosing(job.log.follow(CAP.head + 5)) as stretches:
        stretch = await anext(stretches)
        await job.write(sample(4 * CAP.size))
        assert job.log.dropped_range[1] > stretch.offset + stretch.length
        assert await bytes_of(stretch) == job.written[stretch.offset :][: stretch.length]
        held = job.on_disk()
        assert held <= CAP.size + CAP.chunk + stretch.length + ROOM
        following = await anext(stretches)
        assert job.on_disk() < held - stretch.length + 3 * 4096
        assert following.offset == job.log.dropped_range[1]
        assert await bytes_of(following) == job.written[following.offset :][: following.length]
    await job.end_all()


async def test_a_hole_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A follower for whose sake it was held back goes on; that its space is not given back is logged."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(CAP.size))
    async with aclosing(job.log.follow(CAP.head + 5)) as stretches:
        await anext(stretches)
        await job.write(sample(4 * CAP.size))

        def fail(*_: object, **__: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            patch.setattr("jobmaster.output.dropping.os.open", fail)
            following = await anext(stretches)
        assert following.offset == job.log.dropped_range[1]
    assert "takes up space on: Too many open files" in caplog.text
    await job.end_all()


async def test_losses_in_what_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that were lost stay lost: of a range with a gap only those that were kept count as dropped."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(CAP.head + 1000))
    monkeypatch.setattr("jobmaster.output.transfer.Transfer._transfer", _failing)
    await job.write(sample(500))
    monkeypatch.undo()
    job.log._again_at = 0.0
    await job.write(sample(4 * CAP.size))
    await job.end_all()
    log = job.log
    assert (log.lost, log.kept + log.dropped) == (500, len(job.written) - 500)
    assert await read_all(log.stored()) == job.expected()
    assert len(job.expected()) == log.kept


def _failing(transfer: object) -> int | None:
    data = transfer._lose()  # type: ignore[attr-defined]  # as where the disk fails
    transfer._has_failed = True  # type: ignore[attr-defined]
    return data  # type: ignore[no-any-return]


async def test_a_file_system_without_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no holes can be made, the head is kept, what follows counts as dropped, and the operator is told once."""
    monkeypatch.setattr(dropping, "can_punch", lambda _: False)
    job = Job(tmp_path / "job.log")
    await job.write(sample(5 * CAP.size))
    await job.end_all()
    log = job.log
    assert CAP.size <= log.kept <= CAP.size + CAP.chunk
    assert (log.lost, log.kept + log.dropped) == (0, len(job.written))
    assert await read_all(log.stored()) == job.written[: log.kept]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_job_that_is_to_end(tmp_path: Path) -> None:
    """Where the cap ends the job, nothing is dropped before it, and it is told when no byte more is kept."""
    job = Job(tmp_path / "job.log", Cap(SMALLEST, ends_job=True))
    await job.write(sample(SMALLEST))
    assert not job.log.is_full.is_set()
    await job.write(b"more")
    assert job.log.is_full.is_set()
    await job.end_all()
    assert (job.log.kept, job.log.dropped, job.log.lost) == (SMALLEST, 4, 0)
    assert await read_all(job.log.stored()) == job.written[:SMALLEST]


async def test_an_index_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk does not let a range be dropped, the file grows no further than a chunk above its cap."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(1000))
    assert job.log.index is not None

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(job.log.index, "drop", fail)
    await job.write(sample(5 * CAP.size))
    assert CAP.size < job.log.kept <= CAP.size + 2 * CAP.chunk
    assert job.log.kept + job.log.lost + job.log.dropped == len(job.written)
    await job.end_all()
    assert await read_all(job.log.stored()) == job.written[: job.log.kept]


async def test_a_drop_that_the_disk_does_not_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """It is made up for later, and every byte is counted once."""
    job = Job(tmp_path / "job.log")
    failures = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fail_once(fd: int, fdatasync: Callable[[int], None] = os.fdatasync) -> None:
        if failures:
            raise failures.pop()
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    await job.write(sample(CAP.size + CAP.chunk))
    assert not failures
    mock_clock.jump(RETRY_SECONDS)
    await job.write(sample(2 * CAP.size))
    assert job.log.kept + job.log.lost + job.log.dropped == len(job.written)
    await job.end_all()
    received = await read_all(job.log.stored())
    assert received == job.expected()
    assert len(received) == job.log.kept


async def test_times_after_a_drop(tmp_path: Path) -> None:
    """Streams of what is kept are told truly on both sides of what was dropped."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(3 * CAP.size))
    assert job.log.index is not None
    start, end = job.log.dropped_range
    runs = list(job.log.index.view.runs(0))
    assert all(run.what is Stream.BOTH for run in runs if (run.end or end) <= start or run.start >= end)
    await job.end_all()


class Died(BaseException):
    """The server, at a call of the kernel."""


@pytest.mark.parametrize("call", range(3))
async def test_a_server_that_dies_while_it_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Before the header is written, between its slots, or before the hole is made: nothing passes for output that is none."""
    job = Job(tmp_path / "job.log")
    await job.write(sample(2 * CAP.size))
    left = [call]

    def die(*_: object) -> int:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        return whole_write(*_)  # type: ignore[arg-type]  # as it was called

    whole_write = os.pwrite
    plan = DropPlan(
        start=CAP.head,
        begin=job.log.dropped_range[1],
        end=job.log.dropped_range[1] + CAP.chunk,
        holes=((job.log.dropped_range[1], job.log.dropped_range[1] + CAP.chunk),),
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", die)
        patch.setattr(dropping, "punch", die)
        with pytest.raises(Died):
            dropping.drop(job.log, plan)
    job.log.close()
    followed = OutputLog.reopen(job.log.path, lost=0, cap=CAP)
    job.log = job.pump._log = followed
    assert followed.kept + followed.dropped == followed.size == len(job.written)
    assert followed.dropped_range == ((CAP.head, plan.end) if call else (CAP.head, plan.begin))
    await job.write(sample(CAP.size))
    await job.end_all()
    assert job.on_disk() <= CAP.size + CAP.chunk + ROOM
    assert await read_all(followed.stored()) == job.expected()


# --- the index counts -------------------------------------------------------------------------------------------------


class Alternating:
    """A job that writes single bytes to stdout and stderr in turn, each of which has an entry of the index."""

    def __init__(self, log: OutputLog) -> None:
        self.log = log
        self.written = log.end
        self.most = 0

    def write(self, count: int) -> None:
        """Writes, and drops as the pump does."""
        for _ in range(count):
            stream = (Stream.STDOUT, Stream.STDERR)[self.written % 2]
            plan = self.log.plan()
            if plan.is_kept:
                index = self.log.index_at(self.written)
                assert index is not None
                index.note(plan.offset, stream, self.written, 1)
                os.pwrite(self.log.fd, b"oe"[self.written % 2 :][:1], plan.offset)
                self.log.advance(1)
            else:
                self.log.lose(1, plan.reason)
            self.written += 1
            while (drop_plan := self.log.plan_drop()) is not None:
                self.log.record_drop(drop_plan, dropping.drop(self.log, drop_plan))
            if self.written % 1000 == 0:
                self.most = max(self.most, self.on_disk())

    def on_disk(self) -> int:
        """Bytes that the output and its index take."""
        paths = (self.log.path, self.log.path.with_suffix(".index"))
        return sum(path.stat().st_blocks * 512 for path in paths)


async def test_streams_that_change_from_byte_to_byte(tmp_path: Path) -> None:
    """The index that this needs is taken from the cap: head and newest rest are kept, with their streams, and all counts."""
    job = Alternating(OutputLog(tmp_path / "job.log", CAP))
    job.write(60_000)
    log, (start, end) = job.log, job.log.dropped_range
    assert job.most <= CAP.size * 9 // 8 + ROOM
    assert 0 < start < end < log.size == 60_000
    assert log.kept + log.dropped == 60_000
    assert log.lost == 0
    log.seal()
    selection = Selection(stream=Stream.STDERR)
    found = b"".join([await bytes_of(piece.stretch) async for piece in log.read(selection) if isinstance(piece, Piece)])
    assert found == b"e" * (start // 2 + (log.size - end) // 2)
    log.close()


async def test_a_reopened_output_goes_on_with_its_index(tmp_path: Path) -> None:
    """A server that comes later keeps to the same bound, whether something was dropped before or not."""
    await trio.lowlevel.checkpoint()
    job = Alternating(OutputLog(tmp_path / "job.log", CAP))
    for count in (8_000, 12_000, 20_000, 20_000):
        job.write(count)
        job.log.close()
        job.log = OutputLog.reopen(job.log.path, lost=0, cap=CAP)
        assert job.log.kept + job.log.dropped == job.log.size == job.written
    assert job.most <= CAP.size * 9 // 8 + ROOM
    assert 0 < job.log.dropped_range[0] < CAP.head
    job.log.close()


async def test_a_job_that_is_ended_by_its_index(tmp_path: Path) -> None:
    """Where nothing is dropped, the job is ended when output and index together are as large as they may be."""
    await trio.lowlevel.checkpoint()
    job = Alternating(OutputLog(tmp_path / "job.log", Cap(SMALLEST, ends_job=True)))
    job.write(20_000)
    assert job.log.is_full.is_set()
    assert job.log.kept < 20_000
    assert job.log.kept + job.log.dropped == 20_000
    assert job.on_disk() <= CAP.size * 9 // 8 + ROOM
    job.log.close()
