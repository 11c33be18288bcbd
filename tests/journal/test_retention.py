"""How long ended jobs and the request ids of removed ones are kept: while servers run, by no clock on the wall."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import apsw
import pytest

from jobmaster.job.identifier import JobId
from jobmaster.job.record import Launched, OutputPruned
from jobmaster.journal import database as database_module
from jobmaster.journal.database import Database
from jobmaster.journal.stored import Entry, Retention, microseconds
from tests.journal.jobs import NOON, RETURNED, Seconds, Wall, database_in, finished, key, launched, records, write

DAY: Final = 86_400.0
KEPT: Final = Retention(ended=10, ended_of_client=10, age=timedelta(days=30))
BEGIN: Final = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
"""What a host without a clock of its own shows when it is switched on."""


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """The clock on the wall."""
    wall = Wall()
    monkeypatch.setattr(database_module, "datetime", wall)
    return wall


def ended(database: Database, wall: Wall, request_id: str | None = None) -> JobId:
    """A job that ends now."""
    first = replace(launched(request=key(request_id) if request_id else None), at=wall.time)
    write(database, first, *RETURNED[:-1], replace(finished(), at=wall.time))
    return first.id


def expired(database: Database) -> list[JobId]:
    """The jobs that are to go, as the server asks from time to time."""
    database.store_age()
    return [job_id for job_id, _ in database.expired(KEPT)]


def test_what_is_too_old_goes(tmp_path: Path, wall: Wall) -> None:
    """A job is kept for so long after its end, also where something has happened to it since."""
    seconds = Seconds()
    database = database_in(tmp_path, seconds)
    old = ended(database, wall)
    seconds.now += 20 * DAY
    young = ended(database, wall)
    database.write([Entry.of(old, OutputPruned(at=NOON, reason="too much"))])
    seconds.now += 9.9 * DAY
    assert expired(database) == []
    seconds.now += 0.2 * DAY
    assert expired(database) == [old]
    assert database.find(young) is not None
    database.close()


STEPS: Final = {"behind": BEGIN, "ahead": NOON + timedelta(days=400)}


@pytest.mark.parametrize("wrong", STEPS.values(), ids=STEPS)
def test_a_wrong_clock_makes_nothing_old(tmp_path: Path, wall: Wall, wrong: datetime) -> None:
    """Neither while it is wrong nor when it is set right, in the first server or a later one: what ends then is kept."""
    right, seconds = wall.time, Seconds()
    for number in range(3):
        database = database_in(tmp_path, seconds)
        database.remove([ended(database, wall, f"right {number}")])
        wall.time = wrong
        database.remove([ended(database, wall, f"wrong {number}")])
        ended(database, wall)
        assert expired(database) == []
        wall.time = right
        assert expired(database) == []
        assert not database.purge()
        for name in ("right", "wrong"):
            assert database.request("client1", f"{name} {number}") is not None
        wall.time = wrong
        database.close()


@pytest.mark.parametrize("shown", [*STEPS.values(), NOON])
def test_time_without_a_server_is_no_age(tmp_path: Path, wall: Wall, shown: datetime) -> None:
    """A job is gone when servers have run for so long, whatever the clock shows and however many they were."""
    seconds = Seconds()
    database = database_in(tmp_path, seconds)
    job = ended(database, wall)
    for _ in range(3):
        assert expired(database) == []
        seconds.now += 9.9 * DAY
        assert expired(database) == []
        database.close()
        seconds.now += 50 * DAY
        wall.time = shown
        database = database_in(tmp_path, seconds)
    seconds.now += 0.4 * DAY
    assert expired(database) == [job]
    database.close()


def test_request_ids_are_forgotten_in_time(tmp_path: Path, wall: Wall) -> None:
    """That of a removed job is remembered for a day."""
    seconds = Seconds()
    database = database_in(tmp_path, seconds)
    database.remove([ended(database, wall, "r")])
    for passed, known in ((0.9 * DAY, True), (0.2 * DAY, False)):
        seconds.now += passed
        database.purge()
        assert (database.request("client1", "r") is not None) is known
    database.close()


def change(folder: Path, statement: str, *values: int | str) -> None:
    """Changes a journal that nobody uses."""
    connection = apsw.Connection(str(folder / "journal.db"))
    connection.execute(statement, values)
    connection.close()


def older_version(folder: Path, wall: Wall, days: list[int]) -> list[JobId]:
    """A journal of an older version, with jobs that ended so many days after noon."""
    database = database_in(folder)
    job_ids = []
    for day in days:
        wall.time = NOON + timedelta(days=day)
        job_ids.append(ended(database, wall))
    database.close()
    for job_id, day in zip(job_ids, days, strict=True):
        change_end(folder, job_id, NOON + timedelta(days=day))
    return job_ids


@pytest.mark.parametrize("off", [0, 400])
def test_a_journal_of_an_older_version(tmp_path: Path, wall: Wall, off: int) -> None:
    """Its jobs are as old as its events tell, however long there was no server then."""
    old, young, _ = older_version(tmp_path, wall, [0, 2, 31])
    wall.time += timedelta(days=off)
    seconds = Seconds()
    database = database_in(tmp_path, seconds)
    assert expired(database) == [old]
    seconds.now += 1.1 * DAY
    assert expired(database) == [old, young]
    database.close()


@pytest.mark.parametrize(("newest", "shown"), [(400, NOON), (1, BEGIN)], ids=["ahead", "behind"])
def test_a_wrong_clock_and_a_journal_of_an_older_version(
    tmp_path: Path, wall: Wall, newest: int, shown: datetime
) -> None:
    """Nothing goes since the clock was wrong at the last event, or is when the journal is first opened."""
    older_version(tmp_path, wall, [0, newest])
    wall.time = shown
    database = database_in(tmp_path)
    assert expired(database) == []
    database.close()


def change_end(folder: Path, job_id: JobId, end: datetime) -> None:
    """Stamps the end of a job as older versions did."""
    change(folder, "UPDATE job SET ended = ? WHERE id = ?", microseconds(end), job_id)


@pytest.mark.parametrize("number", [-(2**63), -1, 2**60, 2**63 - 1])
def test_a_damaged_time(tmp_path: Path, wall: Wall, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is told of, nothing goes for it, and all that the journal has is read."""
    database = database_in(tmp_path)
    job = ended(database, wall)
    running = launched()
    write(database, running)
    database.close()
    change(tmp_path, "UPDATE event SET at = ? WHERE seq = (SELECT max(seq) FROM event)", number)
    change(tmp_path, "INSERT INTO number VALUES ('aged', ?)", number)
    database = database_in(tmp_path)
    assert f"the time {number} in the journal is damaged" in caplog.text
    assert expired(database) == []
    assert {record.id for record in records(database)} == {job, running.id}
    assert [each.record.id for each in database.open_jobs()] == [running.id]
    assert isinstance(database.events(0).events[-1].event, Launched)
    database.close()
