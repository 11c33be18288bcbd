"""Databases of every version are opened, by way of the versions between, or left as they are."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Final

import apsw
import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.journal.ballast import Ballast
from jobmaster.journal.connection import BALLAST, Synchronous, connect
from jobmaster.journal.schema import MIGRATIONS, Migration
from jobmaster.journal.stored import Removed, StoredRequest
from tests.journal.faulty import NAME, Fault, faulty_disk, full, takes_nothing
from tests.journal.jobs import database_in, ids, key, launched, record_after, records, write
from tests.journal.keeping import DATABASES, ERROR, FAILED, LIVES, PRUNED, fill


def kept() -> list[str]:
    """The names of the kept databases."""
    return sorted(path.name for path in DATABASES.glob("v*.db.gz"))


def test_there_is_one_of_each_version() -> None:
    """No version of the tables is forgotten."""
    assert kept() == sorted(f"v{version}.db.gz" for version in range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("name", kept())
def test_a_kept_database(tmp_path: Path, name: str) -> None:
    """All that it has is read, and it is written on."""
    (tmp_path / "journal.db").write_bytes(gzip.decompress((DATABASES / name).read_bytes()))
    database = database_in(tmp_path)
    assert database.aside() == []
    assert database.check() == []
    assert list(reversed(records(database))) == [record_after(first, *events) for first, events in LIVES]
    assert ids(job.record for job in database.open_jobs()) == [first.id for first, _ in LIVES[-4:]]
    told = [event.event for event in database.events(0, limit=1_000).events]
    assert told == [event for first, events in LIVES for event in (first, *events)] + [Removed()] * 2
    requests = [database.request("client1", request_id) for request_id in ("first", "failed", "pruned")]
    assert requests == [
        StoredRequest(digest=key("first").digest, job_id=LIVES[0][0].id),
        StoredRequest(digest=key("failed").digest, job_id=FAILED.id, error=ERROR),
        StoredRequest(digest=key("pruned").digest, job_id=PRUNED.id),
    ]
    last = database.last_seq
    assert write(database, launched()) == [last + 1]
    database.close()


# --- the way from version to version ----------------------------------------------------------------------------------


def add_colour(connection: apsw.Connection) -> None:
    """An invented second version."""
    connection.execute("ALTER TABLE job ADD COLUMN colour TEXT; UPDATE job SET colour = 'red'")


def fail(connection: apsw.Connection) -> None:
    """An invented third version that cannot be reached."""
    connection.execute("DROP TABLE event; INSERT INTO nothing VALUES (1)")


SECOND: Final[dict[int, Migration]] = {**MIGRATIONS, len(MIGRATIONS): add_colour}
THIRD: Final[dict[int, Migration]] = {**SECOND, len(SECOND): fail}


def open_as(path: Path, migrations: dict[int, Migration]) -> apsw.Connection:
    """The database, brought to the last of these versions."""
    return connect(path, synchronous=Synchronous.FULL, migrations=migrations)


def filled(folder: Path) -> Path:
    """A database of today's version."""
    database = database_in(folder)
    fill(database)
    database.close()
    return folder / "journal.db"


def test_a_migration(tmp_path: Path) -> None:
    """A database of the version before is changed once, and refused by the program before with a remedy."""
    path = filled(tmp_path)
    for _ in range(2):
        connection = open_as(path, SECOND)
        assert connection.pragma("user_version") == len(SECOND)
        colours = connection.execute("SELECT colour, count(*) FROM job GROUP BY colour").fetchall()
        assert colours == [("red", len(LIVES))]
        connection.close()
    with pytest.raises(
        ConfigurationError,
        match=rf"of a later jobmaster \(version {len(SECOND)}; this program knows {len(MIGRATIONS)}\): install",
    ):
        database_in(tmp_path)


@pytest.mark.parametrize("fault", [full, takes_nothing])
def test_a_migration_on_a_full_disk(tmp_path: Path, fault: Fault) -> None:
    """It has the space of the ballast, and is refused where there is none; the database is then what it was."""
    path = filled(tmp_path)
    ballast = Ballast(tmp_path / BALLAST)

    def full_but_for_the_ballast(name: str) -> None:
        if (tmp_path / BALLAST).stat().st_size:
            fault(name)

    with faulty_disk() as disk:
        ballast.fill()
        ballast.free()
        disk.on_write = fault
        with pytest.raises(ConfigurationError):
            connect(path, synchronous=Synchronous.FULL, vfs=NAME, migrations=SECOND)
        ballast.fill()
        disk.on_write = full_but_for_the_ballast
        connection = connect(path, synchronous=Synchronous.FULL, vfs=NAME, migrations=SECOND)
        colours = connection.execute("SELECT colour, count(*) FROM job GROUP BY colour").fetchall()
        assert colours == [("red", len(LIVES))]
        connection.close()


def test_a_new_database_of_a_later_version(tmp_path: Path) -> None:
    """It goes through all versions."""
    connection = open_as(tmp_path / "journal.db", SECOND)
    assert connection.execute("SELECT count(colour) FROM job").fetchall() == [(0,)]
    connection.close()


def test_a_migration_that_fails(tmp_path: Path) -> None:
    """The database is what it was, for the program before to open."""
    path = filled(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        open_as(path, THIRD)
    database = database_in(tmp_path)
    assert len(records(database)) == len(LIVES)
    database.close()
