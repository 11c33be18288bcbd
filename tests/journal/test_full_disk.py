"""A journal on a full disk: nothing starts, what happens is written as soon as it can be, and all recovers by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.record import Launched, OomKillsCounted
from jobmaster.job.state import Executed
from jobmaster.journal import writer
from jobmaster.journal.ballast import BALLAST_BYTES, Ballast
from jobmaster.journal.connection import BALLAST
from jobmaster.journal.database import Database
from jobmaster.journal.journal import Journal, open_journal
from tests.journal.faulty import NAME, Fault, FaultyDisk, does_not_sync, faulty_disk, full, times
from tests.journal.jobs import NEVER_EXECUTED, RETURNED, database_in, finished, launched, record_after, records


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyDisk]:
    """The disk of all journals of this test."""
    monkeypatch.setattr(Database, "open", partial(Database.open, vfs=NAME))
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(writer, "LAST_RETRY_SECONDS", 0.01)
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
async def journal(tmp_path: Path, disk: FaultyDisk) -> AsyncIterator[Journal]:
    """A new journal on that disk."""
    async with open_journal(tmp_path / "journal.db") as opened:
        yield opened


async def record_launch(journal: Journal, job: Launched) -> int:
    """Records the first event of a job."""
    return await journal.record(job.id, job)


async def until(journal: Journal, *, is_writable: bool) -> None:
    """Waits until the journal is writable, or is not."""
    with trio.fail_after(60):
        while journal.is_writable != is_writable:
            await trio.sleep(0.001)


async def test_ends_are_written_with_the_ballast(tmp_path: Path, journal: Journal, disk: FaultyDisk) -> None:
    """The space of the ballast is for what has happened already; jobs are started when it is filled again."""
    first = launched()
    ballast = tmp_path / BALLAST
    await journal.record(first.id, first)

    def full_but_for_the_ballast(name: str) -> None:
        if ballast.stat().st_size:
            full(name)

    disk.on_write = full_but_for_the_ballast
    for seq, event in enumerate(RETURNED, start=2):
        assert await journal.record(first.id, event) == seq
    assert not journal.is_writable
    with pytest.raises(JournalUnavailable, match="its disk is nearly full"):
        await record_launch(journal, launched())
    disk.works()
    await until(journal, is_writable=True)
    assert ballast.stat().st_size == BALLAST_BYTES
    second = launched()
    await journal.record(second.id, second)


async def test_an_error_that_no_space_helps_against(
    tmp_path: Path, journal: Journal, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ballast stays where the disk fails in another way: when that has passed, jobs are started at once."""
    first = launched()
    await journal.record(first.id, first)
    given_up = False

    def free(_: Ballast) -> bool:
        nonlocal given_up
        given_up = True
        return False

    monkeypatch.setattr(Ballast, "free", free)
    journal.post(first.id, Executed())
    disk.on_sync, disk.on_open = times(1, does_not_sync), does_not_sync
    await until(journal, is_writable=False)
    disk.works()
    await until(journal, is_writable=True)
    assert (tmp_path / BALLAST).stat().st_size == BALLAST_BYTES
    assert not given_up


@pytest.mark.parametrize("fault", [full, does_not_sync])
async def test_who_waits_on_a_disk_that_fails_can_leave(
    journal: Journal, disk: FaultyDisk, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that is tried again and again keeps no caller that is cancelled; it is written when the disk works."""
    monkeypatch.setattr(writer, "LEAVE_SECONDS", 0.1)
    first = launched()
    await journal.record(first.id, first)
    disk.on_write, disk.on_open = fault, fault
    with trio.fail_after(30), trio.move_on_after(0.1) as leaving:
        with pytest.raises(JournalUnavailable):
            await journal.record(first.id, finished())
        await trio.lowlevel.checkpoint()
    assert leaving.cancelled_caught
    disk.works()
    await journal.wait_after(1)
    assert [event.event for event in (await journal.events(0)).events] == [first, finished()]


async def test_a_journal_that_never_rests(journal: Journal, disk: FaultyDisk) -> None:
    """The ballast is filled again also while there is always something to write."""
    jobs = [launched() for _ in range(2)]
    for job in jobs:
        await journal.record(job.id, job)
    failures = times(1, full)
    disk.on_write = failures
    await journal.record(jobs[0].id, Executed())
    assert not journal.is_writable
    count = 0

    async def count_up() -> None:
        nonlocal count
        while True:
            count += 1
            await journal.record(jobs[1].id, OomKillsCounted(count=count))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.record, jobs[1].id, Executed())
        for _ in range(20):
            nursery.start_soon(count_up)
        await until(journal, is_writable=True)
        nursery.cancel_scope.cancel()
    assert count


async def test_a_disk_that_stays_full(journal: Journal, disk: FaultyDisk) -> None:
    """Launches are refused at once; what happens to others is kept in its order, and written in the end."""
    first, refused = launched(), launched()
    await journal.record(first.id, first)
    disk.on_write = full
    journal.post(first.id, RETURNED[0])
    await until(journal, is_writable=False)
    for event in RETURNED[1:]:
        journal.post(first.id, event)
    with pytest.raises(JournalUnavailable, match="cannot be written: its disk is full; try again later"):
        await journal.record(refused.id, refused)
    assert journal.unwritten == [first.id]
    disk.works()
    await until(journal, is_writable=True)
    assert [event.event for event in (await journal.events(0)).events] == [first, *RETURNED]
    assert journal.unwritten == []


async def test_a_launch_that_meets_a_full_disk(journal: Journal, disk: FaultyDisk) -> None:
    """It fails at once, and what was recorded with it in one batch waits."""
    first, second, third = launched(), launched(), launched()
    await journal.record(first.id, first)
    disk.on_write = full
    numbers: list[int] = []

    async def record_end() -> None:
        numbers.append(await journal.record(first.id, Executed()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(record_end)
        for job in (second, third):
            nursery.start_soon(is_refused, journal, job)
        await until(journal, is_writable=False)
        assert numbers == []
        disk.works()
        await until(journal, is_writable=True)
    assert numbers == [2]
    assert await journal.find(second.id) is None


async def is_refused(journal: Journal, job: Launched) -> None:
    """Records a launch in vain."""
    with pytest.raises(JournalUnavailable):
        await record_launch(journal, job)


async def test_a_launch_that_was_written_though_it_failed(journal: Journal, disk: FaultyDisk) -> None:
    """Its caller was told that it is in doubt, and the end that is given then undoes it when the disk tells."""
    first = launched()
    disk.on_sync = does_not_sync
    with pytest.raises(JournalUnavailable, match="its disk fails") as raised:
        await journal.record(first.id, first)
    assert raised.value.is_doubtful
    journal.post(first.id, NEVER_EXECUTED)
    disk.works()
    await until(journal, is_writable=True)
    await journal.wait_after(1)
    assert await journal.find(first.id) is None


async def test_a_full_disk_at_the_end(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last tries are made in the time that the end has; what is then not written is named."""
    first, second = launched(), launched()
    monkeypatch.setattr(writer, "CLOSE_SECONDS", 0.1)
    async with open_journal(tmp_path / "journal.db") as journal:
        await journal.record(first.id, first)
        disk.on_write = full
        journal.post(first.id, Executed())
    assert journal.unwritten == [first.id]
    assert first.id in caplog.text
    disk.works()
    monkeypatch.setattr(writer, "CLOSE_SECONDS", 30.0)
    async with open_journal(tmp_path / "journal.db") as journal:
        disk.on_write = times(20, full)
        journal.post(second.id, second)
        journal.post(first.id, Executed())
    assert journal.unwritten == []
    database = database_in(tmp_path)
    assert records(database) == [record_after(first, Executed())]
    database.close()


def test_the_ballast(tmp_path: Path) -> None:
    """It takes real space, gives it back once, and a file that only looks like it is filled."""
    path = tmp_path / BALLAST
    ballast = Ballast(path)
    with path.open("wb") as file:
        file.truncate(BALLAST_BYTES)
    for _ in range(2):
        ballast.fill()
        assert path.stat().st_blocks * 512 >= BALLAST_BYTES
        assert ballast.free()
        assert path.stat().st_blocks == 0
        assert not ballast.free()
    path.unlink()
    assert not ballast.free()


def test_a_small_disk(tmp_path: Path) -> None:
    """On a real disk without space, ends are written and launches refused; with space, all goes on."""
    script = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -m tests.journal.filling "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"needs a mount namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "filled: No space left on device",
        "a launch: the server's journal cannot be written: its disk is full; try again later",
        "ends: written",
        "a launch: written",
        "open jobs: 0",
    ]
