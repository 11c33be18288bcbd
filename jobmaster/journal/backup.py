"""A copy of the database, made while it is written: some pages at a time, so that nobody waits long for his turn.

What is written meanwhile by this process goes into the copy too, which so equals the database at its last step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from jobmaster.errors import JournalUnavailable
from jobmaster.journal.connection import JournalFault, damages
from jobmaster.journal.database import Database

COPY: Final = "journal.copy"
"""The name of the file, beside the database, while the copy is made."""
PAGES_AT_ONCE: Final = 64
"""Pages of one step: 0.4 ms."""
SPARE_BYTES: Final = 16 * 1024 * 1024
"""What a copy leaves of the disk's space, for the journal itself."""


def remove_left_copy(database: Path) -> None:
    """Removes the copy of a process that was killed while it made one, which is as large as the journal. Blocks."""
    with suppress(OSError):  # what is in the way of that is in the way of the journal as well, which says so
        database.with_name(COPY).unlink(missing_ok=True)


class Copy:
    """A copy of a database. Its methods block; they raise JournalFault, as those of `Database`, or OSError."""

    def __init__(self, database: Database) -> None:
        self._path = database.path.with_name(COPY)
        self._database = database
        self._target: apsw.Connection | None = None
        self._backup: apsw.Backup | None = None
        self._descriptor: int | None = None
        self._has_name = False

    def begin(self) -> None:
        """Begins the copy.

        Raises:
            JournalUnavailable: the disk has no space for it.
        """
        self._has_name = True
        self._path.unlink(missing_ok=True)  # of a process that was killed
        space = os.statvfs(self._path.parent)
        if space.f_bavail * space.f_frsize < self._database.path.stat().st_size + SPARE_BYTES:
            raise JournalUnavailable("the server's journal cannot be copied: its disk has no space for that")
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with _faults_named():
            self._target = apsw.Connection(str(self._path))
            self._target.pragma("journal_mode", "OFF")
            self._target.pragma("synchronous", "OFF")
            self._backup = self._database.begin_backup(self._target)

    def step(self) -> bool:
        """Copies some pages; returns whether all are copied."""
        assert self._backup is not None  # noqa: S101  # for the type checker: it has begun
        return self._database.step_backup(self._backup, PAGES_AT_ONCE)

    def damages(self) -> list[str]:
        """What a check of the finished copy finds: what the database has, for its pages are the same."""
        self._finish()
        with _faults_named():
            connection = apsw.Connection(
                f"{self._path.as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            )
            try:
                return damages(connection)
            finally:
                connection.close()

    def open(self) -> None:
        """Opens the finished copy, for `take`; the file has no name any more, and another copy may be begun."""
        self._finish()
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._path.unlink()
        self._has_name = False

    def take(self) -> int:
        """The descriptor of the opened copy, which is the caller's to close."""
        descriptor, self._descriptor = self._descriptor, None
        assert descriptor is not None  # noqa: S101  # for the type checker: it was opened
        return descriptor

    def discard(self) -> None:
        """Gives back all that the copy takes."""
        self._finish()
        if self._has_name:
            self._path.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _finish(self) -> None:
        backup, target = self._backup, self._target
        self._backup = self._target = None
        with _faults_named():
            if backup is not None:
                self._database.end_backup(backup)
            if target is not None:
                target.close()


@contextmanager
def _faults_named() -> Iterator[None]:
    """An error of SQLite about the copy says nothing of the journal itself."""
    try:
        yield
    except apsw.Error as error:
        raise JournalFault(f"the copy of the journal failed: {error}", words="a copy of it failed") from error
