"""What is left of the output of a job that was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobmaster.output.files import index_path, unlink_output
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.index_file import Gap, IndexFile
from jobmaster.output.survey import survey

EPOCH = 1_790_000_000_000_000


def output(path: Path, size: int) -> IndexFile:
    """Of so many bytes, of which five, from byte 10 on, are a gap."""
    path.write_bytes(b"x" * size)
    index = IndexFile(index_path(path), EPOCH)
    index.note(0, Stream.BOTH, EPOCH, 10)
    index.announce_gap(Gap(10, EPOCH, GapReason.NO_SPACE), 15, Stream.BOTH, EPOCH)
    return index


def test_an_output_without_an_index(tmp_path: Path) -> None:
    """All that is in the file is kept."""
    (tmp_path / "job.log").write_bytes(b"12345")
    os.utime(tmp_path / "job.log", (1, 7))
    found = survey(tmp_path / "job.log")
    assert (found.kept, found.lost, found.dropped, found.modified) == (5, 0, 0, 7)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_something_else_in_an_outputs_place(tmp_path: Path, kind: str) -> None:
    """Its size is none of an output."""
    path = tmp_path / "job.log"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(b"12345")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(FileNotFoundError, match="no file is in its place"):
        survey(path)


@pytest.mark.parametrize(("size", "kept"), [(10, 10), (15, 10), (40, 35)])
def test_an_output_with_a_gap(tmp_path: Path, size: int, kept: int) -> None:
    """A gap is lost whether the server that died had closed it or not."""
    index = output(tmp_path / "job.log", size)
    index.close()
    found = survey(tmp_path / "job.log")
    assert (found.kept, found.lost, found.dropped) == (kept, 5, 0)


def test_an_output_with_a_dropped_range(tmp_path: Path) -> None:
    """What was dropped is counted beside what was lost."""
    index = output(tmp_path / "job.log", 40)
    index.confirm_gap(15, Stream.BOTH, EPOCH)
    index.drop(5, 25)
    index.close()
    found = survey(tmp_path / "job.log")
    assert (found.kept, found.lost, found.dropped) == (20, 5, 15)


@pytest.mark.parametrize(("size", "lost"), [(40, 2), (47, 7), (35, 2)])
def test_an_output_whose_gap_was_open(tmp_path: Path, size: int, lost: int) -> None:
    """All behind its beginning is lost, as far as the file reaches, or as was known then."""
    index = output(tmp_path / "job.log", size)
    index.confirm_gap(15, Stream.BOTH, EPOCH)
    index.open_gap(40, 42, GapReason.NO_SPACE)
    index.close()
    found = survey(tmp_path / "job.log")
    assert (found.kept, found.lost, found.dropped) == (min(size, 40) - 5, 5 + lost, 0)


@pytest.mark.parametrize("kind", ["none", "a folder", "no header"])
def test_an_index_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    """What the file has as a hole is lost; the rest is kept."""
    path = tmp_path / "job.log"
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.seek(8192, os.SEEK_CUR)
        file.write(b"end")
        file.flush()
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) > 4096:
            pytest.skip("this file system tells no holes")
    if kind == "a folder":
        index_path(path).mkdir()
    elif kind == "no header":
        index_path(path).write_bytes(b"x" * 5000)
    found = survey(path)
    assert (found.kept, found.lost, found.dropped) == (4099, 8192, 0)


def test_no_output(tmp_path: Path) -> None:
    """Where there is no file, that is an error."""
    with pytest.raises(FileNotFoundError):
        survey(tmp_path / "job.log")


def test_an_output_that_is_removed(tmp_path: Path) -> None:
    """Its index goes with it; what is not there is no error."""
    output(tmp_path / "job.log", 40).close()
    unlink_output(tmp_path / "job.log")
    assert list(tmp_path.iterdir()) == []
    unlink_output(tmp_path / "job.log")
