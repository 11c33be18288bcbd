"""The disk is asked whether it has kept an output, and holds nobody up by that."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.output import written_back
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.output.written_back import MOST_AT_ONCE, SYNCED_FROM, write_back

DEADLINE: Final = 60.0


class Disk:
    """What happens at a sync.

    Attributes:
        answers: cleared, it takes its time.
        synced: the sizes of files that were synced.
        error: the number of the error that it gives then, if any.
    """

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = trio.Event()
        self.synced: list[int] = []
        self.error: int | None = None
        self._loop = trio.lowlevel.current_trio_token()

    def fdatasync(self, fd: int) -> None:
        """As os.fdatasync."""
        self._loop.run_sync_soon(self.asked.set)
        self.answers.wait(DEADLINE)
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self.synced.append(os.fstat(fd).st_size)


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    """A disk that does as it is told."""
    disk = Disk()
    monkeypatch.setattr("jobmaster.output.written_back.os.fdatasync", disk.fdatasync)
    yield disk
    disk.answers.set()
    await until_none_left()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of an output; no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    yield tmp_path / "job.log"
    assert len(os.listdir("/proc/self/fd")) <= before


async def until_none_left() -> None:
    """Returns when no file is being synced."""
    with trio.fail_after(DEADLINE):
        while written_back._syncers._value < MOST_AT_ONCE:
            await trio.lowlevel.checkpoint()


async def end(path: Path, count: int) -> None:
    """Runs the end of a job that has written so many bytes."""
    log = OutputLog(path)
    read_end, job_end = open_pipe()
    pump = Pump(read_end, log)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await trio.to_thread.run_sync(_write, job_end, count)
        await pump.finish()
        log.seal()
        await pump.close()


def _write(fd: int, count: int) -> None:
    with open(fd, "wb") as file:
        file.write(bytes(count))


async def test_who_ends_does_not_wait_for_the_disk(path: Path, disk: Disk) -> None:
    """The end of a job is over while the disk is being asked."""
    disk.answers.clear()
    await end(path, SYNCED_FROM)
    with trio.fail_after(DEADLINE):
        await disk.asked.wait()
    assert disk.synced == []
    disk.answers.set()
    await until_none_left()
    assert disk.synced == [SYNCED_FROM]


async def test_a_disk_that_has_not_kept_an_output(path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the file and its extent."""
    disk.error = errno.EIO
    await end(path, SYNCED_FROM)
    with trio.fail_after(DEADLINE):
        await disk.asked.wait()
    await until_none_left()
    with trio.fail_after(DEADLINE):
        while not caplog.text:
            await trio.lowlevel.checkpoint()
    assert f"of {path}: some of the bytes 0 to {SYNCED_FROM} may be damaged: Input/output error" in caplog.text


async def test_a_small_output(path: Path, disk: Disk) -> None:
    """It is left to the kernel."""
    await end(path, SYNCED_FROM - 1)
    assert (disk.synced, disk.asked.is_set()) == ([], False)


async def test_a_disk_that_holds_up_all_threads(path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """What ends meanwhile is not synced, and that is told."""
    path.write_bytes(b"x")
    for _ in range(MOST_AT_ONCE):
        assert written_back._syncers.acquire(blocking=False)
    write_back(os.open(path, os.O_RDONLY), path, 1)
    written_back._syncers.release(MOST_AT_ONCE)
    assert "since it has not kept others yet" in caplog.text
    write_back(os.open(path, os.O_RDONLY), path, 1)
    assert disk.synced == [1]
