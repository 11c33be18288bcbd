"""Outputs whose index has lost its end, on real files: zeros of a hole are no bytes of a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

import pytest
from trio.testing import MockClock

from jobmaster.output import log as log_module
from jobmaster.output import reading, transfer
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.files import index_path
from jobmaster.output.holes import BLOCK
from jobmaster.output.index import ENTRY_SIZE, HEADER_SIZE
from jobmaster.output.log import OutputLog
from jobmaster.output.reading import GapPiece, Piece, Selection
from jobmaster.output.stored_output import StoredOutput
from tests.output.stretches import bytes_of
from tests.output.test_reading import START, Writer

NO_BYTE: Final = b"?"
CAP: Final = Cap(SMALLEST)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> Iterator[Writer]:
    """Of a fresh log in a file system that tells holes."""
    made = Writer(OutputLog(tmp_path / "job.log", CAP))
    os.ftruncate(made.log.fd, BLOCK)
    if os.lseek(made.log.fd, 0, os.SEEK_HOLE) != 0:
        pytest.skip("this file system tells no holes")
    os.ftruncate(made.log.fd, 0)
    for module in (transfer, log_module, reading):
        monkeypatch.setattr(module, "now", lambda: made.now)
    yield made
    for fd in made.pipe:
        os.close(fd)


async def told(output: OutputLog | StoredOutput) -> bytes:
    """All of it, with NO_BYTE in gaps."""
    found = b""
    async with aclosing(output.read(Selection(follows=False))) as pieces:
        async for piece in pieces:
            match piece:
                case Piece(stretch=stretch):
                    found += await bytes_of(stretch)
                case GapPiece(start=start, end=end):
                    assert start == len(found)
                    found += NO_BYTE * (end - start)
    return found


def write_story(writer: Writer, *, is_open: bool) -> bytes:
    """Bytes and gaps by turns, the last of which is open or not; the truth."""
    truth = b""
    for number in range(3):
        data = b"%d" % number * 5_000
        writer.write(data, seconds=1)
        truth += data + NO_BYTE * 3 * BLOCK
        writer.write(bytes(3 * BLOCK), seconds=1, is_lost=True)
    if is_open:
        extend_over_gap(writer.log)
        return truth
    writer.write(b"end", seconds=2)
    return truth + b"end"


def extend_over_gap(log: OutputLog) -> None:
    """Has file and index tell of the gap, as a transfer does."""
    assert log.gap is not None
    assert log.index is not None
    log.index.open_gap(log.gap.gap.start, log.end, log.gap.gap.reason)
    os.ftruncate(log.fd, log.end)


def kill(log: OutputLog) -> None:
    """What a server leaves open when it is killed."""
    for fd in (log.fd, -1 if log.index is None else log.index.fd):
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize("is_open", [True, False])
async def test_an_index_that_has_lost_its_end(writer: Writer, *, is_open: bool) -> None:
    """Wherever it ends, each byte is told where it was, and no hole as bytes, live in a later server and when the job has ended."""
    truth = write_story(writer, is_open=is_open)
    lost = writer.log.lost
    kill(writer.log)
    path = index_path(writer.log.path)
    whole, data = path.read_bytes(), writer.log.path.read_bytes()
    assert writer.log.index is not None
    for count in range(writer.log.index.count):
        path.write_bytes(whole[: HEADER_SIZE + count * ENTRY_SIZE])
        stored = StoredOutput(path=writer.log.path, kept=len(truth) - lost, lost=lost)
        assert await told(stored) == truth, count
        for _ in range(2):
            followed = OutputLog.reopen(writer.log.path, lost=lost, cap=CAP)
            assert (followed.kept, followed.lost, followed.dropped) == (len(truth) - lost, lost, 0)
            assert await told(followed) == truth, count
            kill(followed)
        followed = OutputLog.reopen(writer.log.path, lost=lost, cap=CAP)
        writer.log, writer.now = followed, START + 100_000_000
        writer.write(b"more", seconds=1)
        assert await told(followed) == truth + b"more", count
        followed.close()
        restore_file(writer.log.path, data)


def restore_file(path: Path, data: bytes) -> None:
    """Takes out what was written behind."""
    with path.open("r+b") as file:
        if data.endswith(b"\0"):
            file.truncate(len(data.rstrip(b"\0")))  # the hole again
        file.truncate(len(data))


async def test_an_index_that_has_lost_the_end_of_its_head(writer: Writer) -> None:
    """Where the middle was dropped, gaps before and behind it are told as such although their entries are gone."""
    step = SMALLEST // 64
    truth = b""
    for number in range(80):
        data = bytes([number + 1]) * step
        writer.write(data, seconds=1)
        truth += data
        if number in {4, 76}:
            writer.write(bytes(step), seconds=1, is_lost=True)
            truth += NO_BYTE * step
            writer.now += 1_000_000
    start, end = writer.log.dropped_range
    assert 6 * step < start < end < len(truth) - 4 * step
    truth = truth[:start] + NO_BYTE * (end - start) + truth[end:]
    lost, dropped = writer.log.lost, writer.log.dropped
    kill(writer.log)
    path = index_path(writer.log.path)
    whole = path.read_bytes()
    for count in (0, 3, 6, 12, len(whole) // ENTRY_SIZE - HEADER_SIZE // ENTRY_SIZE - 7):
        path.write_bytes(whole[: HEADER_SIZE + count * ENTRY_SIZE])
        stored = StoredOutput(path=writer.log.path, kept=len(truth) - lost - dropped, lost=lost, dropped=dropped)
        assert await told(stored) == truth, count
        for _ in range(2):
            followed = OutputLog.reopen(writer.log.path, lost=lost, dropped=dropped, cap=CAP)
            assert (followed.lost, followed.dropped, followed.end) == (lost, dropped, len(truth))
            assert await told(followed) == truth, count
            kill(followed)


async def test_a_gap_is_on_the_disk_before_the_output_reaches_over_it(  # noqa: ASYNC124  # it needs Trio's loop
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No power cut leaves an output with a hole of which the index does not tell."""
    writer.write(b"kept")
    called = []

    def recorded(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def record(fd: int, *rest: int) -> None:
            call(fd, *rest)
            assert writer.log.index is not None
            called.append((name, fd == writer.log.index.fd))

        return record

    for name in ("fdatasync", "ftruncate"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    writer.log.room.why_full = "too much"
    writer.write(b"lost")
    assert called == [("fdatasync", True), ("ftruncate", False)]
    kill(writer.log)
