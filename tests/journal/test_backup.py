"""A copy that is made while the journal is written has all that was written, and is a journal itself."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from jobmaster.errors import JournalUnavailable, ServerBusy
from jobmaster.job.record import Launched
from jobmaster.job.state import Executed
from jobmaster.journal import backup
from jobmaster.journal import journal as journal_module
from jobmaster.journal.database import Database
from jobmaster.journal.journal import Journal, open_journal
from jobmaster.journal.stored import JobQuery
from tests.journal.jobs import RETURNED, ids, launched, records


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """A journal with some jobs: more than the pages of one step."""
    async with open_journal(tmp_path / "journal.db") as opened:
        await record_jobs(opened, 200)
        yield opened


async def record_jobs(journal: Journal, count: int) -> list[Launched]:
    """Jobs that have returned."""
    jobs = [launched() for _ in range(count)]
    for job in jobs:
        for event in (job, *RETURNED):
            journal.post(job.id, event)
    last = launched()
    await journal.record(last.id, last)
    await journal.record(last.id, Executed())
    return [*jobs, last]


def read(descriptor: int) -> bytes:
    """All of a file."""
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


async def test_a_copy_is_a_journal(tmp_path: Path, journal: Journal) -> None:
    """It has the same jobs, those too that were recorded while it was made, and no file is left of it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record_jobs, journal, 100)
        async with journal.backup() as descriptor:
            content = read(descriptor)
    assert sorted(os.listdir(tmp_path)) == ["journal.ballast", "journal.db", "journal.db-wal"]
    (tmp_path / "restored").mkdir()
    restored = tmp_path / "restored" / "journal.db"
    restored.write_bytes(content)
    database = Database.open(restored)
    assert database.check() == []
    copied = ids(records(database))
    database.close()
    page = await journal.page(JobQuery(limit=1_000))
    everything = [job.record.id for job in page.jobs]
    assert len(copied) >= 201
    assert copied == everything[-len(copied) :]


async def test_what_is_written_meanwhile_is_in_the_copy(tmp_path: Path) -> None:
    """A job that is recorded between two steps is copied with the rest."""
    async with open_journal(tmp_path / "journal.db") as journal:
        await record_jobs(journal, 200)
        copy = backup.Copy(journal._database)
        copy.begin()
        assert not copy.step()
        late = launched()
        await journal.record(late.id, late)
        while not copy.step():
            pass
        copy.open()
        descriptor = copy.take()
        (tmp_path / "restored.db").write_bytes(read(descriptor))
        os.close(descriptor)
        copy.discard()
    database = Database.open(tmp_path / "restored.db")
    assert database.find(late.id) is not None
    database.close()


async def test_one_at_a_time(journal: Journal) -> None:
    """Who asks for a second copy while one is made is told to wait."""
    async with journal._copied():
        with pytest.raises(ServerBusy, match="being copied"):
            await journal.check()
    assert await journal.check() == []


async def test_a_reader_who_takes_its_time(journal: Journal) -> None:
    """While copies are read others are made, up to so many, and the file is checked; all of them are given back."""
    before = sorted(os.listdir("/dev/fd"))
    async with AsyncExitStack() as stack:
        for _ in range(journal_module.MOST_COPIES):
            await stack.enter_async_context(journal.backup())
        assert await journal.check() == []
        with pytest.raises(ServerBusy, match="as many as may be"):
            await stack.enter_async_context(journal.backup())
    assert sorted(os.listdir("/dev/fd")) == before
    async with journal.backup() as descriptor:
        assert read(descriptor)[:15] == b"SQLite format 3"


async def test_a_check_that_cannot_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk without space for a copy puts the check off, and is told once."""
    monkeypatch.setattr(journal_module, "CHECK_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(backup, "SPARE_BYTES", 1 << 60)
    outcomes: list[bool] = []
    check = Journal.check

    async def noted(journal: Journal) -> list[str]:
        try:
            found = await check(journal)
        except JournalUnavailable:
            outcomes.append(False)
            raise
        outcomes.append(True)
        return found

    monkeypatch.setattr(Journal, "check", noted)
    async with open_journal(tmp_path / "journal.db"):
        with trio.fail_after(30):
            while len(outcomes) < 3:
                await trio.sleep(0.001)
            monkeypatch.setattr(backup, "SPARE_BYTES", 0)
            while not outcomes[-1]:
                await trio.sleep(0.001)
    assert outcomes.count(True) == 1
    assert len([line for line in caplog.messages if "could not be checked" in line]) == 1


async def test_a_caller_that_leaves(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a copy that nobody waits for."""
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 1)
    descriptors = len(os.listdir("/dev/fd"))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.check)
            while not (tmp_path / backup.COPY).exists():
                await trio.sleep(0.001)
            scope.cancel()
    assert not (tmp_path / backup.COPY).exists()
    assert len(os.listdir("/dev/fd")) == descriptors
    assert await journal.check() == []


async def test_a_disk_without_space_for_it(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is not begun that would take the journal's own space."""
    monkeypatch.setattr(backup, "SPARE_BYTES", 1 << 60)
    with pytest.raises(JournalUnavailable, match="no space"):
        await journal.check()


async def test_a_file_that_is_opened_again_meanwhile(journal: Journal) -> None:
    """The copy has failed; the next one works."""
    copy = backup.Copy(journal._database)
    copy.begin()
    connection, journal._database._connection = journal._database._connection, None
    assert connection is not None
    connection.close()
    with pytest.raises(Exception, match="could not be copied"):
        copy.step()
    copy.discard()
    assert await journal.check() == []


async def test_a_copy_that_is_left_behind(tmp_path: Path, journal: Journal) -> None:
    """The file of a process that was killed while it copied does no harm, and is gone when the next one begins."""
    (tmp_path / backup.COPY).write_bytes(b"left")
    assert await journal.check() == []
    (tmp_path / "other").mkdir()
    left = tmp_path / "other" / backup.COPY
    left.write_bytes(b"left")
    async with open_journal(tmp_path / "other" / "journal.db"):
        assert not left.exists()


async def test_damage_is_found_in_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that the disk has changed is told some time after the start, and the journal goes on."""
    path = tmp_path / "journal.db"
    async with open_journal(path) as journal:
        await record_jobs(journal, 200)
    content = path.read_bytes()
    page = content.index(b"main_process_died", len(content) // 2) // 4096
    with path.open("r+b") as file:
        file.seek(page * 4096 + 8)
        file.write(b"\xff" * 64)
    monkeypatch.setattr(journal_module, "CHECK_AFTER_SECONDS", 0.0)
    async with open_journal(path) as journal:
        with trio.fail_after(60):
            while not journal.damages:
                await trio.sleep(0.001)
        await record_jobs(journal, 1)
    assert "is damaged" in caplog.text


async def test_a_copy_that_vanishes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever befalls a copy is an error of its own, and the journal goes on."""

    def step_and_vanish(copy: backup.Copy) -> bool:
        is_done = step(copy)
        if is_done:
            copy._path.unlink()
        return is_done

    step = backup.Copy.step
    monkeypatch.setattr(backup.Copy, "step", step_and_vanish)
    with pytest.raises(JournalUnavailable, match="a copy of it failed"):
        await journal.check()
    with pytest.raises(JournalUnavailable):
        async with journal.backup():
            pass
    monkeypatch.setattr(backup.Copy, "step", step)
    assert await journal.check() == []
