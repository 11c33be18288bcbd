"""Followers whose file is on a disk that does not answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from jobmaster.output import followed_file, following
from jobmaster.output.log import OutputLog
from jobmaster.threads import NoThread


@pytest.fixture(autouse=True)
def readers(monkeypatch: pytest.MonkeyPatch) -> trio.CapacityLimiter:
    """The threads of readers, for the test alone."""
    limiter = trio.CapacityLimiter(1)
    for module in (followed_file, following):
        monkeypatch.setattr(module, "READERS", limiter)
    return limiter


def open_files(folder: Path) -> list[str]:
    """What this process has open in a folder; what other tests have left may be closed meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the list itself
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [name for name in found if name.startswith(str(folder))]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that does not answer one call of `os` until it is let; what it then answered is in `answered`."""

    asked: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)
    answered: list[object] = field(default_factory=list)

    def hold_up(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stands between the log and the kernel."""
        call = getattr(os, name)

        def held_up(*arguments: object) -> object:
            self.asked.set()
            self.answers.wait()
            self.answered.append(call(*arguments))
            return self.answered[-1]

        monkeypatch.setattr(os, name, held_up)


async def leave_while_held_up(task: Callable[[], Awaitable[object]], disk: Disk, readers: trio.CapacityLimiter) -> bool:
    """Cancels `task` when the disk holds it up: whether it has ended. Returns when the disk has answered."""
    ended = trio.Event()

    async def run() -> None:
        try:
            await task()
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.to_thread.run_sync(disk.asked.wait)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            has_ended = ended.is_set()
            disk.answers.set()
            while readers.borrowed_tokens:  # until the thread has ended
                await trio.lowlevel.checkpoint()
    return has_ended


@pytest.mark.parametrize("call", ["open", "pread"])
async def test_leaving_a_dead_disk(
    call: str, tmp_path: Path, readers: trio.CapacityLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that is cancelled has left though the disk does not answer; its file is closed when that does."""
    log = OutputLog(tmp_path / "job.log")
    os.write(log.fd, b"output")
    os.close(log.fd)
    log.advance(6)

    async def follow() -> None:
        async with aclosing(log.follow()) as stretches:
            stretch = await anext(stretches)
            await stretch.read(0, 6)

    disk = Disk()
    disk.hold_up(call, monkeypatch)
    assert await leave_while_held_up(follow, disk, readers)
    assert len(disk.answered) == 1
    assert open_files(tmp_path) == []


async def test_a_close_that_does_not_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower leaves, and other tasks run, though the file system does not let its file be closed."""
    log = OutputLog(tmp_path / "job.log")
    os.write(log.fd, b"output")
    os.close(log.fd)
    log.advance(6)
    disk, closers = Disk(), trio.CapacityLimiter(1)
    monkeypatch.setattr(followed_file, "CLOSERS", closers)
    timer = threading.Timer(60, disk.answers.set)  # where the event loop is held up
    timer.start()
    async with aclosing(log.follow()) as stretches:
        await anext(stretches)
        disk.hold_up("close", monkeypatch)
    assert disk.asked.wait(60)  # the clock may have jumped before the thread began
    assert not disk.answered
    timer.cancel()
    disk.answers.set()
    while closers.borrowed_tokens:  # until the thread has ended
        await trio.lowlevel.checkpoint()
    assert open_files(tmp_path) == []


async def test_closing_without_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower's file is closed also where the host has no thread left."""
    log = OutputLog(tmp_path / "job.log")
    os.write(log.fd, b"output")
    os.close(log.fd)
    log.advance(6)

    async def no_thread(*_: object, **__: object) -> NoReturn:  # noqa: ASYNC124  # stands in for one that waits
        raise NoThread("none")

    async with aclosing(log.follow()) as stretches:
        await anext(stretches)
        monkeypatch.setattr(followed_file, "run_in_thread", no_thread)
    assert open_files(tmp_path) == []


def test_a_thread_that_comes_too_late(tmp_path: Path) -> None:
    """What was closed before its thread began is not opened, and not read: its number may be another file's."""
    (tmp_path / "job.log").write_bytes(b"output")
    file = followed_file.FollowedFile(tmp_path / "job.log")
    assert file.leave() is None
    for late in (file.open, lambda: file.pread(1, 0)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            late()
    assert open_files(tmp_path) == []
