"""What is no usable journal is refused with a remedy, and left as it is; a job that cannot be read is set aside."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw
import pytest
from trio.testing import MockClock

from jobmaster.errors import ConfigurationError
from jobmaster.job.state import Executed, MainProcessDied
from jobmaster.journal.connection import BALLAST
from jobmaster.journal.database import Database
from jobmaster.journal.journal import open_journal
from jobmaster.journal.stored import Entry, EntryRefused, JobQuery, UnknownJob
from tests.journal.jobs import RETURNED, database_in, ids, key, launched, record_after, records, write

RAW: Final = ("journal.db", "journal.db-wal", BALLAST)


def filled(folder: Path, *, cleanly: bool = True) -> Path:
    """A journal with some jobs, as a server leaves it that ends, or that is killed."""
    database = database_in(folder)
    for _ in range(50):
        write(database, launched(), *RETURNED)
    database.checkpoint()
    write(database, launched())
    if cleanly:
        database.close()
        return folder / "journal.db"
    copies = {name: (folder / name).read_bytes() for name in RAW[:2]}
    database.close()
    for name, content in copies.items():
        (folder / name).write_bytes(content)
    return folder / "journal.db"


def change(path: Path, statement: str) -> None:
    """Does something to a database that this program would not."""
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


def flip(path: Path, text: bytes) -> None:
    """Changes bytes of the page in which a text is, where SQLite keeps what is in the page."""
    content = path.read_bytes()
    page = content.index(text, len(content) // 2) // 4096
    with path.open("r+b") as file:
        file.seek(page * 4096 + 8)
        file.write(b"\xff" * 64)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Changes bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


DAMAGES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "newer": (lambda path: change(path, "PRAGMA user_version = 99"), "of a later jobmaster"),
    "somebody else's": (lambda path: change(path, "PRAGMA application_id = 7"), "no journal of jobmaster"),
    "text": (lambda path: path.write_text("These are no jobs.\n" * 500), "is damaged"),
    "one byte": (lambda path: os.truncate(path, 1), "is damaged"),
    "header": (lambda path: overwrite(path, 16, b"\xff" * 8), "is damaged"),
    "truncated": (lambda path: os.truncate(path, 8 * 4096), "is damaged"),
    "schema": (lambda path: overwrite(path, 100, b"\xff" * 64), "is damaged"),
    "without tables": (lambda path: change(path, "DROP TABLE removal"), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_refused(tmp_path: Path, damage: str) -> None:
    """The error names the file, what is wrong and what helps, and the file stays as it is."""
    path = filled(tmp_path)
    spoil, words = DAMAGES[damage]
    spoil(path)
    (tmp_path / "journal.db-wal").unlink(missing_ok=True)
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match=words) as raised:
        database_in(tmp_path)
    assert str(path) in str(raised.value)
    assert "move" in str(raised.value)
    assert path.read_bytes() == content


def test_damage_after_an_unclean_end(tmp_path: Path) -> None:
    """The file of a server that was killed is checked before it is used: a page changed anywhere is found."""
    path = filled(tmp_path, cleanly=False)
    flip(path, b"main_process_died")
    with pytest.raises(ConfigurationError, match=r"is damaged .*put a backup in their place"):
        database_in(tmp_path)


def test_an_unclean_end(tmp_path: Path) -> None:
    """The file of a server that was killed has all that was written, from its log too."""
    filled(tmp_path, cleanly=False)
    database = database_in(tmp_path)
    assert len(records(database)) == 51
    database.close()


def test_an_emptied_file(tmp_path: Path) -> None:
    """A file without content is no new journal where there has been one."""
    (tmp_path / "journal.db").touch()
    (tmp_path / BALLAST).touch()
    with pytest.raises(ConfigurationError, match="is empty, and was not"):
        database_in(tmp_path)
    (tmp_path / BALLAST).unlink()
    database_in(tmp_path).close()


def test_a_log_without_its_file(tmp_path: Path) -> None:
    """What was written is still in the write-ahead log: no new journal is begun over it, until that is moved away."""
    path = filled(tmp_path, cleanly=False)
    log = tmp_path / "journal.db-wal"
    content = log.read_bytes()
    assert content
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"is gone, and journal\.db-wal is there: move .* away"):
        database_in(tmp_path)
    assert log.read_bytes() == content
    assert not path.exists()
    log.rename(tmp_path / "elsewhere-wal")
    database_in(tmp_path).close()


def test_a_journal_in_use(tmp_path: Path) -> None:
    """Two servers cannot share one, and the first goes on."""
    first = database_in(tmp_path)
    code = "import pathlib, sys; from tests.journal.jobs import database_in; database_in(pathlib.Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "in use by another server: stop that one first" in second.stderr
    assert write(first, launched()) == [1]
    first.close()


@pytest.mark.parametrize("path", ["nowhere/journal.db", "."])
def test_a_place_that_is_none(tmp_path: Path, path: str) -> None:
    """A folder that is not there, and a folder instead of a file."""
    with pytest.raises(ConfigurationError, match=r"cannot be (made|written)"):
        Database.open(tmp_path / path)


READ_ONLY: Final = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c '
import pathlib, sys
from jobmaster.errors import ConfigurationError
from tests.journal.jobs import database_in
try:
    database_in(pathlib.Path(sys.argv[1]))
except ConfigurationError as error:
    print(error)
' "$1"
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_a_disk_that_is_read_only(tmp_path: Path, *, is_there: bool) -> None:
    """A journal on it is refused, and so is a new one."""
    if is_there:
        filled(tmp_path)
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"needs a mount namespace: {done.stderr.strip()}")
    assert "writable" in done.stdout or "may write" in done.stdout, done.stderr


def test_the_files_are_private(tmp_path: Path) -> None:
    """Commands may hold secrets: whatever the umask, others cannot read them."""
    before = os.umask(0)
    try:
        database = database_in(tmp_path)
        write(database, launched())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    database.close()
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600}


# --- jobs that cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE event SET type = 'exploded' WHERE seq = 2", "there is no event 'exploded'"),
        ("UPDATE event SET doc = '{' WHERE seq = 1", "JSONDecodeError"),
        ("UPDATE event SET type = 'stop_signalled' WHERE seq = 2", "StopSignalled cannot happen"),
        ("DELETE FROM event WHERE seq = 1", "its first event is 'executed'"),
        ("DELETE FROM event WHERE job = 1", "it has no events"),
    ],
)
def test_an_open_job_that_cannot_be_replayed(tmp_path: Path, statement: str, reason: str) -> None:
    """It is named and in no list; all others are as they were, and so is what is left of it."""
    broken, other = launched(request=key("r")), launched()
    database = database_in(tmp_path)
    write(database, broken, Executed(), MainProcessDied(death=RETURNED[1].death))  # type: ignore[union-attr]
    write(database, other)
    database.close()
    change(tmp_path / "journal.db", statement)
    for _ in range(2):
        database = database_in(tmp_path)
        assert ids(job.record for job in database.open_jobs()) == [other.id]
        (aside,) = database.aside()
        assert (aside.key, aside.id, aside.owner) == (1, broken.id, "client1")
        assert reason in aside.reason
        assert database.find(broken.id) is None
        assert isinstance(database.write([Entry.of(broken.id, Executed())])[0], UnknownJob)
        assert {event.job_id for event in database.events(0).events} == {other.id}
        database.close()


def test_an_ended_job_that_cannot_be_read(tmp_path: Path) -> None:
    """It is set aside by who meets it, and the others of the page are given."""
    jobs = [launched() for _ in range(3)]
    database = database_in(tmp_path)
    for job in jobs:
        write(database, job, *RETURNED)
    database.close()
    change(tmp_path / "journal.db", "UPDATE job SET doc = '{}' WHERE key = 5")
    database = database_in(tmp_path)
    assert ids(records(database)) == [jobs[2].id, jobs[0].id]
    assert [aside.id for aside in database.aside()] == [jobs[1].id]
    assert database.page(JobQuery(limit=1)).next == 9
    database.close()


def test_a_record_that_is_not_what_its_events_say(tmp_path: Path) -> None:
    """The events are the truth: the record of an open job is made from them again."""
    first = launched()
    database = database_in(tmp_path)
    write(database, first, Executed())
    database.close()
    change(tmp_path / "journal.db", "UPDATE job SET state = 'held', doc = replace(doc, '\"pid\":42', '\"pid\":43')")
    database = database_in(tmp_path)
    assert [job.record for job in database.open_jobs()] == [record_after(first, Executed())]
    assert records(database) == [record_after(first, Executed())]
    database.close()


def test_an_event_for_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    """It fails alone."""
    first, other = launched(), launched()
    database = database_in(tmp_path)
    write(database, first)
    database.close()
    change(tmp_path / "journal.db", "UPDATE job SET doc = '{}'")
    database = database_in(tmp_path)
    written = database.write([Entry.of(first.id, Executed()), Entry.of(other.id, other)])
    assert [type(result) for result in written] == [EntryRefused, int]
    database.close()


async def test_the_journal_names_them(tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Every start names in the log what was set aside."""
    first = launched()
    database = database_in(tmp_path)
    write(database, first)
    database.close()
    change(tmp_path / "journal.db", "UPDATE event SET doc = '{}'")
    for _ in range(2):
        caplog.clear()
        async with open_journal(tmp_path / "journal.db") as journal:
            assert await journal.open_jobs() == []
            assert [aside.id for aside in await journal.aside()] == [first.id]
        assert first.id in caplog.text
