"""Opening the database file: as this program needs it, or refused with what is wrong and what helps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

import apsw

from jobmaster.errors import ConfigurationError, HostError
from jobmaster.journal.ballast import Ballast
from jobmaster.journal.schema import MIGRATIONS, Migration, NotAJournal, TooNew, migrate, version_of

BALLAST: Final = "journal.ballast"
"""The name of the file beside the database whose space is given up when the disk is full."""
_MOST_FINDINGS: Final = 3
"""So many findings of a check are told."""


class Synchronous(Enum):
    """When a commit waits for the disk (SQLite's pragma `synchronous`).

    FULL: for every commit: what is acknowledged outlives a power cut.
    NORMAL: at checkpoints: a power cut can take the latest commits, a kill of the process nothing.
    OFF: never: a power cut can take the whole database.
    """

    FULL = "FULL"
    NORMAL = "NORMAL"
    OFF = "OFF"


class JournalFault(HostError):
    """The database cannot be written or read now. The text is for the operator.

    Attributes:
        words: what a client may know of it.
        is_doubtful: what was to be written may be there all the same, and the file has to be opened again.
        lacks_space: more space on the disk would have helped.
    """

    def __init__(self, text: str, *, words: str, is_doubtful: bool = False, lacks_space: bool = False) -> None:
        super().__init__(text)
        self.words = words
        self.is_doubtful = is_doubtful
        self.lacks_space = lacks_space


def fault_of(error: apsw.Error | ConfigurationError) -> JournalFault:
    """What an error of SQLite means.

    After a failed write SQLite has undone the transaction, and goes on where the disk does; a quota or a limit of the
    file's size is such a failure, too. After any other error the connection is not to be trusted.
    """
    text = f"the journal's database failed: {error}"
    match error:
        case apsw.FullError():
            return JournalFault(text, words="its disk is full", lacks_space=True)
        case apsw.IOError() if getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_WRITE:
            return JournalFault(text, words="its disk takes nothing", lacks_space=True)
        case apsw.CorruptError() | apsw.NotADBError():
            return JournalFault(text, words="it is damaged", is_doubtful=True)
        case _:
            return JournalFault(text, words="its disk fails", is_doubtful=True)


_HEADER_SIZE: Final = 100
"""Bytes at the beginning of every database that is not empty (SQLite, Database File Format, 1.3)."""


def connect(
    path: Path, *, synchronous: Synchronous, vfs: str | None = None, migrations: Mapping[int, Migration] = MIGRATIONS
) -> apsw.Connection:
    """Opens the database, for this process alone; makes it where it is not there.

    Raises:
        ConfigurationError: it is none, not ours, too new, damaged, read-only, or in use; it is left as it is.
    """
    _create(path)
    with _refusals(path):
        connection = apsw.Connection(str(path), vfs=vfs)
        try:
            # What is left in the write-ahead log when a connection is closed would be written to the file with errors
            # of fsync ignored; it stays there instead, and only an explicit checkpoint writes.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if connection.readonly("main"):
                raise apsw.ReadOnlyError("attempt to write a readonly database")
            connection.pragma("locking_mode", "EXCLUSIVE")  # before the first access: then without shared memory
            version = version_of(connection, migrations)
            connection.pragma("journal_mode", "WAL")
            connection.pragma("synchronous", synchronous.value)
            connection.pragma("cell_size_check", True)
            connection.pragma("trusted_schema", False)
            connection.wal_autocheckpoint(0)
            _migrate(connection, version, migrations, Ballast(path.with_name(BALLAST)))
        except BaseException:
            connection.close()
            raise
    return connection


def _migrate(connection: apsw.Connection, version: int, migrations: Mapping[int, Migration], ballast: Ballast) -> None:
    """On a full disk with the space of the ballast: a server that does not start ends the jobs of the one before it."""
    try:
        migrate(connection, version, migrations)
    except apsw.Error as error:
        if not fault_of(error).lacks_space or not ballast.free():
            raise
        migrate(connection, version, migrations)


def _create(path: Path) -> None:
    """Makes an empty file that is private; SQLite would leave that to the umask.

    A database that exists is not opened: closing its descriptor would drop the locks that SQLite holds (fcntl(2)).
    """
    try:
        wal = path.with_name(f"{path.name}-wal")
        if not path.exists() and wal.exists() and wal.stat().st_size:
            raise ConfigurationError(f"the journal {path} is gone, and {wal.name} is there: {_remedy(path)}")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            size = path.stat().st_size
            if size == 0 and path.with_name(BALLAST).exists():
                raise ConfigurationError(
                    f"the journal {path} is empty, and was not: {_remedy(path)}, or remove {BALLAST} as well"
                ) from None
            if 0 < size < _HEADER_SIZE:  # SQLite takes a file of one byte for an empty one
                raise damaged(path, f"it has {size} bytes") from None
            return
        os.close(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigurationError(
            f"the journal {path} cannot be made: {error.strerror}: give the server a folder on a disk that it may write"
        ) from error


def _remedy(path: Path) -> str:
    return (
        f"move {path.name} and {path.name}-wal away, and put a backup in their place, or nothing to begin a new one, "
        "which knows none of the old one's jobs"
    )


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except NotAJournal as error:
        raise ConfigurationError(f"{path} is a database, but no journal of jobmaster: move it away") from error
    except TooNew as error:
        raise ConfigurationError(
            f"the journal {path} is of a later jobmaster ({error}): install that one again, or {_remedy(path)}"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise damaged(path, str(error)) from error
    except apsw.BusyError as error:
        raise ConfigurationError(f"the journal {path} is in use by another server: stop that one first") from error
    except (apsw.ReadOnlyError, apsw.CantOpenError) as error:
        raise ConfigurationError(
            f"the journal {path} cannot be written ({error}): make it, its folder and their file system writable"
        ) from error
    except apsw.FullError as error:
        raise ConfigurationError(f"the disk of the journal {path} is full: make space on it") from error
    except apsw.Error as error:
        raise ConfigurationError(
            f"the journal {path} cannot be opened ({type(error).__name__}: {error}): see to its disk, or {_remedy(path)}"
        ) from error


def damaged(path: Path, findings: str) -> ConfigurationError:
    """The error for a file whose content is not what was written to it."""
    return ConfigurationError(f"the journal {path} is damaged ({findings}): {_remedy(path)}")


def damages(connection: apsw.Connection) -> list[str]:
    """What a check of the whole file finds; reads all of it."""
    try:
        answer = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_MOST_FINDINGS})")]
    except apsw.CorruptError as error:
        return [str(error)]
    if answer == ["ok"]:
        return []
    return [line for text in answer for line in text.splitlines() if not line.startswith("***")]


def was_left_unclean(path: Path) -> bool:
    """Whether the last one who wrote did not come to close the database."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False
