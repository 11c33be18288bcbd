"""The files of a job: made whole in a thread, and taken back by whoever has them last."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from jobmaster.errors import CgroupError, HostError, ServerBusy
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Running
from jobmaster.run import job_files
from jobmaster.run.job_files import ACQUIRE_SECONDS, UNDO_SECONDS, AdoptedFiles, JobFiles, acquire, discard
from tests.harness import own_cgroup_root

REAL_SECONDS: Final = 60.0
"""How long a thread may really take."""


@dataclass(slots=True)
class Workshop:
    """Makes files, as soon as it is let, and sees what is left of them.

    Attributes:
        begun: a thread is at it.
        may_end: it is let to end.
    """

    tree: CgroupTree
    folder: Path
    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def make(self) -> JobFiles:
        """To be called in a thread."""
        self.begun.set()
        assert self.may_end.wait(REAL_SECONDS)
        return JobFiles(self.tree, (), self.folder, job_id=new_job_id(), owner="client1")

    def left(self) -> list[Path]:
        """Cgroups and logs."""
        return [*self.tree.jobs.glob("client1/*/"), *self.folder.iterdir()]


@pytest.fixture(autouse=True)
def starters(monkeypatch: pytest.MonkeyPatch) -> trio.CapacityLimiter:
    """The threads of this test alone: one that ends after its test's loop can't give its token back."""
    limiter = trio.CapacityLimiter(1)
    monkeypatch.setattr(job_files, "STARTERS", limiter)
    return limiter


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """One that has everything it needs; at the end no descriptor, cgroup or log may be left."""
    with own_cgroup_root() as root:
        tree = CgroupTree(root=root)
        tree.prepare()
        before = os.listdir("/proc/self/fd")
        made = Workshop(tree, tmp_path)
        yield made
        made.may_end.set()
        assert made.left() == []
        assert os.listdir("/proc/self/fd") == before


async def in_real_time(event: threading.Event) -> None:
    """Waits for a thread."""
    assert await trio.to_thread.run_sync(event.wait, REAL_SECONDS)


@asynccontextmanager
async def a_caller(workshop: Workshop) -> AsyncIterator[tuple[trio.CancelScope, trio.Event]]:
    """Somebody who acquires files that are being made: its scope, and the event that it has left."""
    left = trio.Event()

    async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await acquire(workshop.make)
        left.set()

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(run)
        await in_real_time(workshop.begun)
        yield scope, left


async def test_who_leaves_waits_for_the_thread(workshop: Workshop, mock_clock: trio.testing.MockClock) -> None:
    """A caller that leaves while the host is at it has left when the thread has taken back what it made."""
    async with a_caller(workshop) as (scope, left):
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set()
        workshop.may_end.set()
        await left.wait()  # the clock stands still: no deadline has passed
    assert workshop.left() == []


async def test_who_leaves_does_not_wait_for_ever(
    workshop: Workshop, starters: trio.CapacityLimiter, mock_clock: trio.testing.MockClock
) -> None:
    """A caller whom the host holds up leaves after UNDO_SECONDS; the thread takes everything back when it comes to it."""
    async with a_caller(workshop) as (scope, left):
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(UNDO_SECONDS)
        await left.wait()
    workshop.may_end.set()
    while starters.borrowed_tokens:
        await trio.lowlevel.checkpoint()


async def test_a_host_that_does_not_answer(workshop: Workshop, mock_clock: trio.testing.MockClock) -> None:
    """After ACQUIRE_SECONDS the caller is told to try again; what is made too late is taken back."""
    refusals: list[ServerBusy] = []

    async def call() -> None:
        with pytest.raises(ServerBusy, match=f"within {ACQUIRE_SECONDS:.0f} s") as refusal:
            await acquire(workshop.make)
        refusals.append(refusal.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await in_real_time(workshop.begun)
        mock_clock.jump(ACQUIRE_SECONDS - 0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert refusals == []
        mock_clock.jump(0.1)
        await trio.testing.wait_all_tasks_blocked()
        workshop.may_end.set()
    assert len(refusals) == 1


async def test_what_no_thread_has_begun_is_not_made(workshop: Workshop, starters: trio.CapacityLimiter) -> None:
    """A caller that leaves while all threads are taken leaves at once, and nothing is made for it later."""
    workshop.may_end.set()
    starters.acquire_on_behalf_of_nowait("another")
    with trio.move_on_after(0.01) as scope:
        await acquire(workshop.make)
    assert scope.cancelled_caught
    starters.release_on_behalf_of("another")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not workshop.begun.is_set()


async def test_an_error_leaves_nothing(workshop: Workshop) -> None:
    """Where the log cannot be made, the cgroup is gone again and the caller has the reason."""
    workshop.may_end.set()
    absent = Workshop(workshop.tree, workshop.folder / "absent", workshop.begun, workshop.may_end)
    with pytest.raises(HostError, match="absent"):
        await acquire(absent.make)


async def test_no_descriptor_for_the_pipe(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last of what a job needs can't be made, the rest is taken back, and the caller may try again later."""

    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(job_files, "open_pipe", refuse)
    workshop.may_end.set()
    with pytest.raises(ServerBusy, match=os.strerror(errno.EMFILE)):
        await acquire(workshop.make)


async def test_files_that_are_gone_are_no_leftover(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody else has removed is taken back without a word, and only once."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    files.log.path.unlink()
    await discard(files)
    files.discard()
    assert caplog.text == ""


async def test_a_cgroup_that_is_busy_for_a_moment(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cgroup that a process is just leaving is tried again, and removed without a word."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    remove: Callable[[], bool] = files.cgroup.remove
    tries = [False, False, True]
    monkeypatch.setattr(files.cgroup, "remove", lambda: tries.pop(0) and remove())
    await discard(files)
    assert (tries, caplog.text) == ([], "")


async def test_a_cgroup_that_stays_busy(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no thread to try again in, a cgroup that is in use is left, and named."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    monkeypatch.setattr(files.cgroup, "remove", lambda: False)
    files.discard_at_once()
    assert "in use, and is left behind" in caplog.text
    assert f"{files.log.path} of a job that did not start is left" in caplog.text
    monkeypatch.undo()
    assert files.cgroup.remove()
    files.log.path.unlink()


def failing(_: Path) -> bool:
    """A cgroup that cannot be removed."""
    raise CgroupError("it cannot be removed")


async def test_a_leftover_is_named_and_the_rest_removed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the cgroup cannot be removed the operator is told, and the log is removed all the same."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    remove: Callable[[], bool] = files.cgroup.remove
    monkeypatch.setattr(files.cgroup, "remove", lambda: failing(files.log.path))
    await discard(files)
    assert "it cannot be removed" in caplog.text
    assert not files.log.path.exists()
    assert remove()


@pytest.mark.parametrize("close", [AdoptedFiles.discard, AdoptedFiles.discard_at_once])
async def test_what_was_adopted_is_only_closed(workshop: Workshop, close: Callable[[AdoptedFiles], None]) -> None:
    """Whoever has an earlier server's files last closes them, and leaves the job what it has. Idempotent."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    record = JobRecord(
        id=JobId(files.log.path.stem),
        owner="client1",
        command=CommandLine.of(JobSpecification(command="true")),
        state=Running(pid=1, started_at=datetime.now(UTC)),
    )
    before = os.listdir("/proc/self/fd")
    adopted = AdoptedFiles(workshop.tree, workshop.folder, record, terminal=files.read_end)
    for _ in range(2):
        close(adopted)
    assert not adopted.is_anew
    assert os.listdir("/proc/self/fd") == before
    assert len(workshop.left()) == 2
    await discard(files)


async def test_a_cgroup_that_is_gone_is_made_anew(workshop: Workshop) -> None:
    """Who adopts the job is told, since what it counts is not what the job has used."""
    workshop.may_end.set()
    files = await acquire(workshop.make)
    record = JobRecord(
        id=JobId(files.log.path.stem),
        owner="client1",
        command=CommandLine.of(JobSpecification(command="true")),
        state=Running(pid=1, started_at=datetime.now(UTC)),
    )
    assert files.cgroup.remove()
    adopted = AdoptedFiles(workshop.tree, workshop.folder, record)
    assert adopted.is_anew
    adopted.discard()
    await discard(files)
