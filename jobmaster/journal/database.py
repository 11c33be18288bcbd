"""The journal's file and the one connection to it, used from threads.

Reading and writing share the connection, one at a time. A write that fails in fsync(2) may be in the file all the same,
and what the kernel has in memory is no proof that the disk has it. So the file is then opened again, written out by a
checkpoint, checked, and asked for the sequence numbers that the write had given: they are there, or the write has failed.
Where even that is not possible yet, the next use tries it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import apsw

from jobmaster.errors import ConfigurationError
from jobmaster.job.identifier import JobId
from jobmaster.job.state import Ended, InvalidTransition
from jobmaster.journal import reading, writing
from jobmaster.journal.age import AgeClock
from jobmaster.journal.connection import (
    JournalFault,
    Synchronous,
    connect,
    damaged,
    damages,
    fault_of,
    was_left_unclean,
)
from jobmaster.journal.reading import Broken
from jobmaster.journal.stored import (
    AsideJob,
    EndedOutput,
    Entry,
    EntryRefused,
    Events,
    JobQuery,
    OpenJob,
    Page,
    Retention,
    StoredJob,
    StoredRequest,
    Written,
    microseconds,
)
from jobmaster.journal.writing import Batch, Moment

logger = logging.getLogger(__name__)

T = TypeVar("T")

REMOVED_AT_ONCE: Final = 50
"""Jobs that one transaction removes, so that the writes between have a turn."""


_WRONG_VALUES: Final = (apsw.ConstraintError, apsw.MismatchError, TypeError, ValueError, OverflowError)
"""What a value that cannot be stored raises."""


@dataclass(frozen=True, slots=True)
class _Commit:
    """A transaction that may be in the file: what it says of each entry, and the last sequence number it gave."""

    written: list[tuple[Entry, Written]]
    last_seq: int

    def acknowledge(self) -> None:
        for entry, written in self.written:
            entry.written = written


class Database:
    """The journal's file. Made by `open`; every method may be called from any thread, and blocks.

    All methods but `open` and `close` raise JournalFault where the disk does not do what they need.
    """

    def __init__(self, path: Path, connect_again: Callable[[], apsw.Connection]) -> None:
        self.path = path
        self.frames = 0
        """Frames of the write-ahead log that no checkpoint has written to the file yet, at most."""
        self.last_seq = 0
        """The greatest sequence number that was given."""
        self.copied: Callable[[], int] | None = None
        """Up to which number somebody has copied the events: later ones stay, also where their job is removed."""
        self.is_checked = False
        """Whether the whole file was checked when it was opened."""
        self._age = AgeClock(datetime.now(UTC), is_stored=False)
        self._connect = connect_again
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._is_closed = False
        self._doubtful: _Commit | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        synchronous: Synchronous = Synchronous.FULL,
        vfs: str | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> Database:
        """Opens or makes the file; one that nobody closed is checked first.

        Args:
            path: of the file; what SQLite needs lies beside it.
            synchronous: when a commit waits for the disk.
            vfs: the name of the way to the disk that is registered with SQLite; None for the usual one.
            seconds: by which things grow old.

        Raises:
            ConfigurationError: it is none, not ours, too new, damaged, read-only, or in use; it is left as it is.
        """
        must_check = was_left_unclean(path)  # asked before it is opened, which changes the answer
        database = cls(path, lambda: connect(path, synchronous=synchronous, vfs=vfs))
        connection = database._connect()
        try:
            if must_check and (found := damages(connection)):
                raise damaged(path, "; ".join(found))
            database.is_checked = must_check
            database._take(connection)
            database._age = _age_clock(connection, seconds)
        except apsw.Error as error:
            connection.close()
            raise damaged(path, str(error)) from error
        except BaseException:
            connection.close()
            raise
        return database

    def _take(self, connection: apsw.Connection) -> None:
        self.last_seq = reading.last_seq(connection)
        connection.set_wal_hook(self._see_frames)
        self._connection = connection

    def _see_frames(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self.frames = frames
        return apsw.SQLITE_OK

    @contextmanager
    def _use(self) -> Iterator[apsw.Connection]:
        """The connection, for one use at a time.

        Raises:
            JournalFault: the disk does not do what is needed.
        """
        with self._lock:
            connection = self._connection or self._open_again()
            try:
                yield connection
            except apsw.Error as error:
                if isinstance(error, _WRONG_VALUES):
                    self._undo(connection)
                    raise
                fault = fault_of(error)
                self._undo(connection, fault)
                raise fault from error
            except BaseException:
                self._undo(connection)
                raise

    def _undo(self, connection: apsw.Connection, fault: JournalFault | None = None) -> None:
        if fault is None or not fault.is_doubtful:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except apsw.Error:
                logger.exception("a transaction of the journal could not be undone; its file is opened again")
            else:
                return
        self._connection = None
        connection.close()

    def _open_again(self) -> apsw.Connection:
        if self._is_closed:
            raise JournalFault("the journal is closed", words="the server is shutting down")
        try:
            connection = self._connect()
        except ConfigurationError as error:
            raise fault_of(error) from error
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
            if found := damages(connection):
                raise apsw.CorruptError("; ".join(found))
            self._take(connection)
        except apsw.Error as error:
            connection.close()
            raise fault_of(error) from error
        self._settle()
        logger.warning("the journal %s was opened again after an error of its disk", self.path)
        return connection

    def _settle(self) -> None:
        if self._doubtful is not None:
            commit, self._doubtful = self._doubtful, None
            if self.last_seq >= commit.last_seq:
                commit.acknowledge()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Entry]) -> list[Written]:
        """Writes entries in one transaction and returns what has become of each.

        An entry that an earlier call has written, as is then found, is not written again.
        """
        try:
            self._write_together(batch)
        except JournalFault:
            if self._doubtful is None:
                raise
            with self._use():  # which learns what has become of the transaction
                pass
            if any(entry.written is None for entry in batch):
                raise
        except _WRONG_VALUES:  # a bug, of one entry: the others are written
            for entry in batch:
                self._write_alone(entry)
        return [entry.written for entry in batch if entry.written is not None]

    def _write_alone(self, entry: Entry) -> None:
        try:
            self._write_together([entry])
        except _WRONG_VALUES as error:
            entry.written = EntryRefused(f"{type(error).__name__}: {error}")

    def _write_together(self, batch: Sequence[Entry]) -> None:
        with self._use() as connection:
            entries = [entry for entry in batch if entry.written is None]
            if entries:
                self._write(connection, entries)

    def _write(self, connection: apsw.Connection, entries: list[Entry]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        batch = self._batch(connection)
        commit = _Commit([(entry, _add(batch, entry)) for entry in entries], batch.last_seq)
        batch.finish()
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            if fault_of(error).is_doubtful:
                self._doubtful = commit
            raise
        self.last_seq = commit.last_seq
        commit.acknowledge()

    def remove(self, job_ids: Sequence[JobId], *, given_up: bool = False) -> None:
        """Removes ended jobs with their events, at most REMOVED_AT_ONCE.

        Args:
            job_ids: the jobs.
            given_up: nobody was told of them: their request ids are forgotten, which else are remembered for a time, and
                their outputs are `discarded`.
        """
        if len(job_ids) > REMOVED_AT_ONCE:
            raise ValueError(f"{len(job_ids)} jobs are too many for one transaction")
        with self._use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            batch = self._batch(connection)
            for job_id in job_ids:
                batch.remove(job_id, given_up=given_up)
            connection.execute("COMMIT")
            self.last_seq = batch.last_seq

    def _batch(self, connection: apsw.Connection) -> Batch:
        copied = None if self.copied is None else self.copied()
        return Batch(connection, self.last_seq, self._moment(), copied=copied)

    def _moment(self) -> Moment:
        return Moment(datetime.now(UTC), self._age.now())

    def forget_discarded(self, job_ids: Sequence[JobId]) -> None:
        """The outputs of these jobs are gone."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM discarded WHERE job_id = ?", [(job_id,) for job_id in job_ids])

    def purge(self) -> bool:
        """Forgets some of what is remembered of removed jobs for long enough; returns whether there is more."""
        with self._transaction() as connection:
            copied = self.last_seq if self.copied is None else self.copied()
            return writing.purge(connection, self._moment(), copied)

    def probe(self) -> None:
        """Returns if the disk takes a write."""
        with self._transaction() as connection:
            connection.execute("UPDATE number SET value = value + 1 WHERE name = 'probe'")

    def checkpoint(self) -> None:
        """Writes the log's frames to the file, so that the log begins anew."""
        with self._use() as connection:
            frames, written = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self.frames = max(0, frames - written)

    def close(self) -> None:
        """Writes all to the file and closes it; where that fails, what is in the log stays there."""
        with self._lock:
            self._is_closed = True
            connection, self._connection = self._connection, None
            if connection is None:
                return
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error as error:
                logger.error(
                    "the journal's log could not be written to %s: %s; nothing is lost: it stays beside that, and the next "
                    "start writes it",
                    self.path,
                    error,
                )
            finally:
                connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        with self._use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    # --- reading ------------------------------------------------------------------------------------------------------

    def find(self, job_id: JobId) -> StoredJob | None:
        """The job called so."""
        return self._read(lambda connection, broken: reading.find(connection, job_id, broken))

    def page(self, query: JobQuery) -> Page:
        """The newest jobs that a query wants."""
        return self._read(lambda connection, broken: reading.page(connection, query, broken))

    def events(self, after: int, owner: str | None = None, limit: int = 100, *, of_removed: bool = False) -> Events:
        """What happened after the sequence number `after`, to the jobs of `owner` (None: of anybody).

        Args:
            after: the number.
            owner: the client.
            limit: how many events at most.
            of_removed: jobs that are removed, too, as far as their events are kept for who copies them.
        """
        return self._read(
            lambda connection, broken: reading.events(
                connection, after, owner, limit, self.last_seq, broken, of_removed=of_removed
            )
        )

    def open_jobs(self) -> list[OpenJob]:
        """The jobs that have not ended, as the replay of their events gives them; the oldest is first."""
        found = self._read(reading.open_jobs)
        wrong = [job for job, is_as_recorded in found if not is_as_recorded]
        if wrong:
            logger.error("the records of %d jobs were not what their events say; they are now", len(wrong))
            with self._transaction() as connection:
                for job in wrong:
                    writing.write_record(connection, job.key, job.record, self._moment())
        return [job for job, _ in found if not isinstance(job.record.state, Ended)]

    def request(self, owner: str, request_id: str) -> StoredRequest | None:
        """What a client's request id stands for."""
        return self._read(lambda connection, _: reading.request(connection, owner, request_id))

    def expired(self, retention: Retention) -> list[tuple[JobId, str]]:
        """The ended jobs that are to go next, each with its owner; at most REMOVED_AT_ONCE."""
        return self._read(
            lambda connection, _: reading.expired(connection, retention, self._age.now(), REMOVED_AT_ONCE)
        )

    def store_age(self) -> None:
        """Stores how far age has come, from time to time; to be called more often."""
        with self._lock:
            reached = self._age.to_store()
        if reached is not None:
            with self._transaction() as connection:
                connection.execute("INSERT OR REPLACE INTO number VALUES ('aged', ?)", (microseconds(reached),))

    def discarded(self, after: str) -> list[JobId]:
        """Jobs that are forgotten and whose output may still be there; those behind the id `after`, REMOVED_AT_ONCE at most.

        As many as there are such files, which take more room.
        """
        return self._read(lambda connection, _: reading.discarded(connection, after, REMOVED_AT_ONCE))

    def ended_outputs(self, after: int) -> list[EndedOutput]:
        """The ended jobs with a greater key, some at a time, in the order of their keys."""
        return self._read(lambda connection, _: reading.ended_outputs(connection, after))

    def aside(self) -> list[AsideJob]:
        """The jobs whose events or records cannot be read."""
        return self._read(lambda connection, _: reading.aside(connection))

    def _read(self, question: Callable[[apsw.Connection, Broken], T]) -> T:
        with self._use() as connection:
            broken: Broken = []
            answer = question(connection, broken)
            if broken:
                self._set_aside(connection, broken)
            return answer

    def _set_aside(self, connection: apsw.Connection, broken: Broken) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job_id, reason in writing.set_aside(connection, broken, self._moment()).items():
                logger.error("job %s cannot be read from the journal and is set aside: %s", job_id, reason)
            connection.execute("COMMIT")
        except apsw.Error as error:
            if fault_of(error).is_doubtful:
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    # --- the whole file -----------------------------------------------------------------------------------------------

    def begin_backup(self, target: apsw.Connection) -> apsw.Backup:
        """A copy into another, empty database; each of its uses is one of these methods."""
        with self._use() as connection:
            return target.backup("main", connection, "main")

    def step_backup(self, backup: apsw.Backup, pages: int) -> bool:
        """Copies so many pages; returns whether all are copied."""
        with self._use():
            try:
                return backup.step(pages)
            except apsw.Error as error:  # also where the file was opened again meanwhile
                raise JournalFault(f"the journal could not be copied: {error}", words="the copy failed") from error

    def end_backup(self, backup: apsw.Backup) -> None:
        """Ends a copy, whether all was copied or not."""
        with self._lock:
            backup.close(True)

    def check(self) -> list[str]:
        """What a check of the whole file finds; nothing else is read or written meanwhile."""
        with self._use() as connection:
            return damages(connection)


def _age_clock(connection: apsw.Connection, seconds: Callable[[], float]) -> AgeClock:
    """Goes on from what is stored; else from the last event, since older versions stamped with the times of events."""
    if (stored := reading.aged(connection)) is not None:
        return AgeClock(stored, is_stored=True, seconds=seconds)
    now = datetime.now(UTC)
    return AgeClock(min(reading.newest(connection) or now, now), is_stored=False, seconds=seconds)


def _add(batch: Batch, entry: Entry) -> Written:
    try:
        return batch.add(entry)
    except (EntryRefused, InvalidTransition) as refusal:
        return refusal
