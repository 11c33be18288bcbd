"""A disk that fails: nothing that is acknowledged is lost, and what failed can be written when it works again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmaster.job.state import Executed
from jobmaster.journal.connection import JournalFault
from jobmaster.journal.database import Database
from jobmaster.journal.stored import Entry
from tests.journal.faulty import NAME, Fault, FaultyDisk, does_not_sync, faulty_disk, full, takes_nothing, times
from tests.journal.jobs import RETURNED, database_in, entries, launched, record_after, records, write


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    """The disk of the test's databases."""
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def database(tmp_path: Path, disk: FaultyDisk) -> Iterator[Database]:
    """A new journal on that disk."""
    opened = Database.open(tmp_path / "journal.db", vfs=NAME)
    yield opened
    disk.works()
    opened.close()


@pytest.mark.parametrize(("fault", "words"), [(full, "its disk is full"), (takes_nothing, "its disk takes nothing")])
def test_a_disk_that_takes_no_write(database: Database, disk: FaultyDisk, fault: Fault, words: str) -> None:
    """The batch fails as a whole, reading goes on, and the same batch is written when the disk takes it."""
    first, second = launched(), launched()
    write(database, first)
    batch = [Entry.of(first.id, Executed()), *entries(second)]
    disk.on_write = fault
    for _ in range(2):
        with pytest.raises(JournalFault) as raised:
            database.write(batch)
        assert raised.value.words == words
        assert records(database) == [record_after(first)]
    disk.works()
    assert database.write(batch) == [2, 3]
    assert records(database) == [record_after(second), record_after(first, Executed())]


@pytest.mark.parametrize("fault", [full, takes_nothing, does_not_sync])
def test_a_removal_that_fails_gives_no_number(database: Database, disk: FaultyDisk, fault: Fault) -> None:
    """The last number that was given is never one that the file does not have: who reads on from it would miss events."""
    first = launched()
    write(database, first, *RETURNED)
    disk.on_write = disk.on_sync = fault
    with pytest.raises(JournalFault):
        database.remove([first.id])
    assert database.last_seq == 4
    disk.works()
    database.remove([first.id])
    position = database.last_seq
    assert position == database.events(0).position
    write(database, launched())
    assert [event.seq for event in database.events(position).events] == [position + 1]


@pytest.mark.parametrize("fault", [full, does_not_sync])
def test_closing_on_a_disk_that_fails(
    database: Database, tmp_path: Path, disk: FaultyDisk, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the file and what becomes of what is not in it yet, and the next one who opens it has everything."""
    first = launched()
    write(database, first, *RETURNED)
    disk.on_write = disk.on_sync = fault
    database.close()
    (said,) = caplog.records
    assert said.exc_info is None
    assert str(database.path) in said.getMessage()
    assert "the next start" in said.getMessage()
    disk.works()
    again = database_in(tmp_path)
    assert records(again) == [record_after(first, *RETURNED)]
    again.close()


def test_an_event_that_is_there_after_a_failed_sync(database: Database, disk: FaultyDisk) -> None:
    """The file is opened again and asked: the event is there, so it is acknowledged."""
    first = launched()
    disk.on_sync = times(1, does_not_sync)
    assert write(database, first, *RETURNED) == [1, 2, 3, 4]
    assert records(database) == [record_after(first, *RETURNED)]


def test_an_event_that_is_not_there_after_a_failed_sync(database: Database, disk: FaultyDisk) -> None:
    """It has failed, and the same entries can be written later."""
    first = launched()
    batch = entries(first)

    def lose(name: str) -> None:
        if name.endswith("-wal"):
            Path(name).write_bytes(b"")
            disk.works()
            does_not_sync(name)

    disk.on_sync = lose
    with pytest.raises(JournalFault):
        database.write(batch)
    assert batch[0].written is None
    assert records(database) == []
    assert database.write(batch) == [1]


def test_a_disk_that_fails_for_longer(tmp_path: Path, database: Database, disk: FaultyDisk) -> None:
    """Until the file can be opened again nobody knows; then the entries are what the file says, written once."""
    first, second = launched(), launched()
    batch = entries(first)
    disk.on_sync = does_not_sync
    for _ in range(2):
        with pytest.raises(JournalFault) as raised:
            database.write(batch)
        assert raised.value.words == "its disk fails"
        with pytest.raises(JournalFault):
            database.find(first.id)
    disk.works()
    assert database.write([*batch, *entries(second)]) == [1, 2]
    assert [event.event for event in database.events(0).events] == [first, second]
    database.close()
    again = database_in(tmp_path)
    assert records(again) == [record_after(second), record_after(first)]
    again.close()


def test_a_reader_that_settles_it(database: Database, disk: FaultyDisk) -> None:
    """Whoever comes first opens the file again, and learns what has become of the entries."""
    first = launched()
    batch = entries(first)
    disk.on_sync = does_not_sync
    with pytest.raises(JournalFault):
        database.write(batch)
    disk.works()
    assert records(database) == [record_after(first)]
    assert batch[0].written == 1


def test_a_checkpoint_that_fails(database: Database, disk: FaultyDisk) -> None:
    """It is an error, and loses nothing."""
    first = launched()
    write(database, first)
    for fault in (full, does_not_sync):
        disk.on_write = disk.on_sync = fault
        with pytest.raises(JournalFault):
            database.checkpoint()
        disk.works()
        assert records(database) == [record_after(first)]
    database.checkpoint()
    assert database.frames == 0
    assert database.check() == []


def test_an_end_on_a_failing_disk(tmp_path: Path, database: Database, disk: FaultyDisk) -> None:
    """Closing a database whose log cannot be written to its file leaves the log, and the next one has it all."""
    first = launched()
    write(database, first)
    disk.on_sync = does_not_sync
    database.close()
    disk.works()
    again = database_in(tmp_path)
    assert records(again) == [record_after(first)]
    again.close()


def test_a_closed_database(database: Database) -> None:
    """It says so."""
    database.close()
    with pytest.raises(JournalFault, match="closed"):
        write(database, launched())
    database.close()
