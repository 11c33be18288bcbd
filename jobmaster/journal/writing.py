"""The statements that change the database; each function is called inside a transaction of its caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import apsw

from jobmaster.job.cause import FailedToStart
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Launched, apply, record_of
from jobmaster.job.state import Closing, Ended, Held
from jobmaster.journal.codec import (
    Undecodable,
    cause_name,
    decode_record,
    encode_record,
    encode_request_error,
    state_name,
)
from jobmaster.journal.sql import row, rows, value
from jobmaster.journal.stored import (
    DuplicateJob,
    Entry,
    EntryRefused,
    RequestTaken,
    UnknownJob,
    microseconds,
)

REQUEST_RETENTION: Final = timedelta(hours=24)
"""How long a request id is remembered after its job has been removed, by `AgeClock`."""
MAX_REMOVALS: Final = 10_000
"""How many removed jobs are remembered for those who follow the events; the client that has most loses first."""
MAX_FREED_REQUESTS: Final = 100_000
"""Request ids of removed jobs that are remembered; likewise."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something is written: as it is told, and as it grows old (`AgeClock`)."""

    wall: datetime
    age: datetime


@dataclass(slots=True)
class _Job:
    key: int
    record: JobRecord
    has_changed: bool = False


class Batch:
    """The entries of one transaction; a job's record is read once and written once."""

    def __init__(
        self, connection: apsw.Connection, last_seq: int, moment: Moment, *, copied: int | None = None
    ) -> None:
        """Begins after the sequence number `last_seq`; who copies the events has those up to `copied`. None: nobody does."""
        self._connection = connection
        self._copied = copied
        self._moment = moment
        self._jobs: dict[JobId, _Job] = {}
        self.last_seq = last_seq

    def add(self, entry: Entry) -> int:
        """Writes one entry and returns its sequence number.

        Raises:
            EntryRefused, InvalidTransition: the event cannot be; nothing of it has been written.
            apsw.Error: the transaction has failed.
        """
        if isinstance(entry.event, Launched):
            return self._launch(entry, entry.event)
        job = self._job(entry.job_id)
        before = job.record
        job.record = apply(before, entry.event)
        if entry.forget or _is_end_of_nothing(before, job.record):
            return self._forget(entry, job)
        job.has_changed = True
        return self._insert_event(entry, job.key)

    def _launch(self, entry: Entry, launched: Launched) -> int:
        if value(self._connection, "SELECT 1 FROM job WHERE id = ?", launched.id):
            raise DuplicateJob(launched.id)
        request = launched.request
        if (
            request is not None
            and self._connection.execute(
                "SELECT 1 FROM request WHERE owner = ? AND request_id = ?", (launched.owner, request.id)
            ).get
        ):
            raise RequestTaken(f"{launched.owner}: {request.id}")
        key = self._insert_event(entry, None)
        record = record_of(launched)
        self._connection.execute(
            "INSERT INTO job (key, id, owner, state, started, doc) VALUES (?, ?, ?, ?, ?, ?)",
            (
                key,
                launched.id,
                launched.owner,
                state_name(record.state),
                microseconds(launched.at),
                encode_record(record),
            ),
        )
        if request is not None:
            self._connection.execute(
                "INSERT INTO request (owner, request_id, digest, job_id, at) VALUES (?, ?, ?, ?, ?)",
                (launched.owner, request.id, request.digest, launched.id, microseconds(launched.at)),
            )
        self._jobs[launched.id] = _Job(key, record)
        return key

    def _job(self, job_id: JobId) -> _Job:
        if (job := self._jobs.get(job_id)) is not None:
            return job
        found = row(self._connection, "SELECT key, doc FROM job WHERE id = ?", job_id)
        if found is None:
            raise UnknownJob(job_id)
        try:
            job = self._jobs[job_id] = _Job(found[0], decode_record(found[1]))
        except Undecodable as error:
            raise EntryRefused(f"the record of {job_id} cannot be read: {error}") from error
        return job

    def _next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def _insert_event(self, entry: Entry, key: int | None) -> int:
        seq = self._next_seq()
        self._connection.execute(
            "INSERT INTO event (seq, job, at, type, doc) VALUES (?, ?, ?, ?, ?)",
            (seq, seq if key is None else key, microseconds(entry.at), entry.type, entry.doc),
        )
        return seq

    def _forget(self, entry: Entry, job: _Job) -> int:
        del self._jobs[entry.job_id]
        if self._copied is not None:
            self._insert_event(entry, job.key)
        if entry.request_error is None:
            self._forget_request(entry.job_id)
        else:
            self._connection.execute(
                "UPDATE request SET error = ? WHERE job_id = ?",
                (encode_request_error(entry.request_error), entry.job_id),
            )
        if entry.forget:
            self._discard(entry.job_id)
        return self._remove(job.key, entry.job_id, job.record.owner)

    def remove(self, job_id: JobId, *, given_up: bool = False) -> None:
        """Removes an ended job and its events; one that has not ended, or is not there, is left.

        Args:
            job_id: the job.
            given_up: its request id is forgotten at once, and its output is to be removed.
        """
        found = row(self._connection, "SELECT key, owner FROM job WHERE id = ? AND ended IS NOT NULL", job_id)
        if found is not None:
            if given_up:
                self._forget_request(job_id)
                self._discard(job_id)
            self._remove(found[0], job_id, found[1])

    def _forget_request(self, job_id: JobId) -> None:
        self._connection.execute("DELETE FROM request WHERE job_id = ?", (job_id,))

    def _discard(self, job_id: JobId) -> None:
        """Remembers that a job's output is to be removed: in the transaction that forgets the job, so that it cannot stay."""
        self._connection.execute("INSERT OR IGNORE INTO discarded VALUES (?)", (job_id,))

    def _remove(self, key: int, job_id: JobId, owner: str) -> int:
        self._connection.execute("DELETE FROM job WHERE key = ?", (key,))
        self._connection.execute("DELETE FROM event WHERE job = ?1 AND (?2 IS NULL OR seq <= ?2)", (key, self._copied))
        if self._copied is not None and value(self._connection, "SELECT 1 FROM event WHERE job = ? LIMIT 1", key):
            self._connection.execute("INSERT INTO uncopied (key, id, owner) VALUES (?, ?, ?)", (key, job_id, owner))
        free_request(self._connection, job_id, self._moment)
        seq = self._next_seq()
        self._connection.execute(
            "INSERT INTO removal (seq, at, job_id, owner) VALUES (?, ?, ?, ?)",
            (seq, microseconds(self._moment.wall), job_id, owner),
        )
        return seq

    def finish(self) -> None:
        """Writes the records that have changed."""
        for job in self._jobs.values():
            if job.has_changed:
                write_record(self._connection, job.key, job.record, self._moment)


def _is_end_of_nothing(before: JobRecord, after: JobRecord) -> bool:
    """Whether a job has ended that was never executed, and of which therefore nobody has been told."""
    match before.state, after.state:
        case Held() | Closing(), Ended(cause=FailedToStart()):
            return True
        case _:
            return False


def write_record(connection: apsw.Connection, key: int, record: JobRecord, moment: Moment) -> None:
    """Makes the record of the job with this key what `record` is; a job that has ended grows old from now on."""
    ended = record.state if isinstance(record.state, Ended) else None
    connection.execute(
        "UPDATE job SET state = ?1, cause = ?2, doc = ?4,"
        " ended = CASE WHEN ?3 IS NULL THEN NULL ELSE coalesce(ended, ?3) END, ended_seq ="
        " CASE WHEN ?3 IS NULL THEN NULL ELSE coalesce(ended_seq, (SELECT max(seq) FROM event WHERE event.job = ?5)) END"
        " WHERE key = ?5",
        (
            state_name(record.state),
            cause_name(ended.cause) if ended else None,
            microseconds(moment.age) if ended else None,
            encode_record(record),
            key,
        ),
    )


def free_request(connection: apsw.Connection, job_id: str, moment: Moment) -> None:
    """Lets the request id of a job that is gone be forgotten in time."""
    connection.execute("UPDATE request SET removed = ? WHERE job_id = ?", (microseconds(moment.age), job_id))


def set_aside(connection: apsw.Connection, reasons: Iterable[tuple[int, str]], moment: Moment) -> dict[str, str]:
    """Takes jobs, by key and reason, out of every list; returns their ids and the reasons."""
    told = {}
    for key, reason in reasons:
        job_id = value(connection, "SELECT id FROM job WHERE key = ?", key)
        if job_id is None:
            continue
        connection.execute(
            "INSERT OR REPLACE INTO aside (key, id, owner, at, reason, doc)"
            " SELECT key, id, owner, ?, ?, doc FROM job WHERE key = ?",
            (microseconds(moment.wall), reason.encode("ascii", "backslashreplace").decode(), key),
        )
        connection.execute("DELETE FROM job WHERE key = ?", (key,))
        free_request(connection, job_id, moment)
        told[job_id] = reason
    return told


def purge(connection: apsw.Connection, moment: Moment, copied: int, *, limit: int = 500) -> bool:
    """Forgets what is remembered of removed jobs for long enough, some at a time; returns whether there is more.

    Of their events those up to the number `copied` are, which somebody else has.
    """
    done = _purge_requests(connection, microseconds(moment.age - REQUEST_RETENTION), limit)
    done = _purge_copied(connection, copied, limit) or done
    return _purge_removals(connection, limit) or done


def _purge_copied(connection: apsw.Connection, copied: int, limit: int) -> bool:
    some = "SELECT key FROM uncopied ORDER BY key LIMIT ?1"
    connection.execute(f"DELETE FROM event WHERE job IN ({some}) AND seq <= ?2", (limit, copied))  # noqa: S608  # nothing of a caller's
    connection.execute(
        f"DELETE FROM uncopied WHERE key IN ({some}) AND NOT EXISTS (SELECT 1 FROM event WHERE job = uncopied.key)",  # noqa: S608  # as above
        (limit,),
    )
    return connection.changes() == limit


def _purge_requests(connection: apsw.Connection, before: int, limit: int) -> bool:
    counts = rows(connection, "SELECT owner, count(*) FROM request WHERE removed IS NOT NULL GROUP BY owner")
    done = 0
    for owner, surplus in surpluses(dict(counts), MAX_FREED_REQUESTS).items():
        connection.execute(
            "DELETE FROM request WHERE rowid IN ("
            "SELECT rowid FROM request WHERE owner = ? AND removed IS NOT NULL ORDER BY removed LIMIT ?)",
            (owner, min(surplus, limit - done)),
        )
        done += connection.changes()
    connection.execute(
        "DELETE FROM request WHERE rowid IN (SELECT rowid FROM request WHERE removed < ? ORDER BY removed LIMIT ?)",
        (before, limit - done),
    )
    return done + connection.changes() == limit


def _purge_removals(connection: apsw.Connection, limit: int) -> bool:
    done = 0
    counts = dict(rows(connection, "SELECT owner, count(*) FROM removal GROUP BY owner"))
    for owner, surplus in surpluses(counts, MAX_REMOVALS).items():
        if not (share := min(surplus, limit - done)):
            break
        last = value(
            connection, "SELECT seq FROM removal WHERE owner = ? ORDER BY seq LIMIT 1 OFFSET ?", owner, share - 1
        )
        connection.execute("DELETE FROM removal WHERE owner = ? AND seq <= ?", (owner, last))
        connection.execute("INSERT OR REPLACE INTO horizon VALUES (?, ?)", (owner, last))
        done += share
    return done == limit


def surpluses(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """How much of each client's is above the level that all can have together; nobody loses to the many of another."""
    left, level = most, 0
    for others, count in enumerate(sorted(counts.values())):
        level = left // (len(counts) - others)
        if count > level:
            return {owner: count - level for owner, count in counts.items() if count > level}
        left -= count
    return {}
