"""Gaps that are found in a file alone, on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.output import found_gaps
from jobmaster.output.found_gaps import FoundGaps, find_gaps
from jobmaster.output.holes import BLOCK
from jobmaster.output.index import GapReason, Header, Stream
from jobmaster.output.index_search import Run

LENGTHS = st.tuples(st.integers(1, 3 * BLOCK), st.integers(2 * BLOCK, 5 * BLOCK))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file on a file system that tells holes."""
    path = tmp_path_factory.mktemp("found") / "job.log"
    with path.open("wb") as file:
        file.truncate(10 * BLOCK)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("this file system tells no holes")
    return path


def write(path: Path, parts: list[tuple[bytes, int]], rest: bytes) -> int:
    """Bytes and gaps behind them, by turns; the size of the file."""
    with path.open("wb") as file:
        for data, gap in parts:
            file.write(data)
            file.seek(gap, os.SEEK_CUR)
        file.write(rest)
        return file.tell()


def found(path: Path, size: int, lost: int, dropped: int = 0, header: Header | None = None) -> FoundGaps:
    """What is found."""
    with path.open("rb") as file:
        return find_gaps(file.fileno(), size, lost=lost, dropped=dropped, header=header)


@given(st.lists(LENGTHS, max_size=4))
def test_gaps_of_a_block_and_more(path: Path, lengths: list[tuple[int, int]]) -> None:
    """Wherever they begin and end, gaps with a block to themselves are found to the byte, between bytes that are no zeros."""
    size = write(path, [(b"x" * data, gap) for data, gap in lengths], b"end")
    expected, place = [], 0
    for data, gap in lengths:
        expected.append((place + data, place + data + gap, GapReason.DISK_FAILED))
        place += data + gap
    gaps = found(path, size, sum(gap for _, gap in lengths) + 7)
    assert list(gaps.gaps) == expected
    for start, end, reason in expected:
        assert gaps.run_at(end - 1, size) == Run(start, end, None, reason)
        assert gaps.run_at(end, size).what is Stream.BOTH
        assert gaps.run_at(start - 1, size).end == start


def test_zeros_of_the_job(path: Path) -> None:
    """Zeros that border on a hole are no gap where so many bytes are not missing."""
    size = write(path, [(b"x" * (BLOCK - 10) + bytes(10), 2 * BLOCK)], b"end")
    assert list(found(path, size, 2 * BLOCK).gaps) == [(BLOCK, 3 * BLOCK, GapReason.DISK_FAILED)]


def test_holes_of_the_file_system(path: Path) -> None:
    """Where there are more holes than bytes are missing, a hole says nothing."""
    size = write(path, [(b"x" * BLOCK, 2 * BLOCK)], b"end")
    assert found(path, size, BLOCK).length == 0


def test_what_was_dropped(path: Path) -> None:
    """Of a hole the header says whether it was dropped; without one, it was where nothing is lost."""
    size = write(path, [(b"x" * BLOCK, 2 * BLOCK), (b"x" * BLOCK, BLOCK)], b"end")
    header = Header(epoch=0, dropped_start=BLOCK, dropped_end=3 * BLOCK)
    reasons = [reason for *_, reason in found(path, size, BLOCK, 2 * BLOCK, header).gaps]
    assert reasons == [GapReason.CAPPED, GapReason.DISK_FAILED]
    assert {reason for *_, reason in found(path, size, 0, 3 * BLOCK).gaps} == {GapReason.CAPPED}


def test_too_many_holes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the last hole that is looked for, none passes for bytes."""
    monkeypatch.setattr(found_gaps, "MOST_HOLES", 2)
    size = write(path, [(b"x" * BLOCK, BLOCK)] * 4, b"end")
    assert found(path, size, size).gaps[-1][:2] == (5 * BLOCK, size)
