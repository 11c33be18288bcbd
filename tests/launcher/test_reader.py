"""Files that may keep their reader waiting: a FIFO without a writer stands for them."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobmaster.launcher import reader as reader_module
from jobmaster.launcher.reader import HeldUp, Reader


@pytest.fixture
def reader() -> Iterator[Reader]:
    """One that is ended and reaped in the end."""
    made = Reader()
    yield made
    made.close()
    with suppress(ChildProcessError):  # there was none, or it is reaped
        os.waitpid(made._pid or os.getpid(), 0)


def test_files_are_read(reader: Reader, tmp_path: Path) -> None:
    """In their order; one that is not there, or cannot be read, is empty."""
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "b").write_text("")
    paths = [str(tmp_path / name) for name in ("a", "none", "b", "", "a")]
    assert reader.read(paths) == ["one\n", "", "", "", "one\n"]
    (tmp_path / "long").write_text("x" * 200)  # longer than what is read of a process
    assert reader.read([str(tmp_path / "long")] * reader_module.MOST_FILES) == ["x" * 200] * reader_module.MOST_FILES


def test_one_that_holds_its_reader_up(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is told after a moment, and what is asked next is read as ever."""
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(reader_module, "SECONDS", 0.01)
    with pytest.raises(HeldUp):
        reader.read([str(tmp_path / "fifo")])
    os.waitpid(reader._pid, 0)  # it was killed
    monkeypatch.undo()
    (tmp_path / "a").write_text("one")
    assert reader.read([str(tmp_path / "a")]) == ["one"]


def test_a_reader_that_was_killed(reader: Reader, tmp_path: Path) -> None:
    """It could not read what was asked, and the next one can."""
    (tmp_path / "a").write_text("one")
    paths = [str(tmp_path / "a")]
    assert reader.read(paths) == ["one"]
    os.kill(reader._pid, signal.SIGKILL)
    os.waitid(os.P_PID, reader._pid, os.WEXITED | os.WNOWAIT)
    assert reader.read(paths) == [""]
    os.waitpid(reader._pid, 0)
    assert reader.read(paths) == ["one"]


def test_no_process_can_be_made(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is read, and no descriptor is left open."""
    gc.collect()  # which closes what other tests have left
    before = os.listdir("/proc/self/fd")

    def fail() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fail)
    assert reader.read(["/proc/self/stat"]) == [""]
    assert os.listdir("/proc/self/fd") == before
