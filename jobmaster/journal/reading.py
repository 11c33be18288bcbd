"""The statements that ask the database.

A job whose text cannot be read is left out of the answer and named in `broken`, for the caller to set it aside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import apsw

from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Launched, apply, record_of
from jobmaster.job.state import InvalidTransition
from jobmaster.journal.codec import Undecodable, decode_event, decode_record, decode_request_error
from jobmaster.journal.sql import row, rows, value
from jobmaster.journal.stored import (
    EVENTS_CHARACTERS,
    SOUND_TIMES,
    AsideJob,
    EndedOutput,
    Events,
    JobQuery,
    JournalledEvent,
    OpenJob,
    Page,
    Removed,
    Retention,
    StoredJob,
    StoredRequest,
    microseconds,
    time_of,
)

logger = logging.getLogger(__name__)

LONGEST_PAGE: Final = 1_000
LOOKED_AT: Final = 1_000
"""Jobs that a page looks at for a name or labels, which are in their documents alone: the next page goes on behind them."""
PAGE_CHARACTERS: Final = 1024 * 1024
"""Of the jobs of a page, as they are written in the database: nobody waits longer for a page of large ones."""
EVENTS_AT_ONCE: Final = 1_000
"""Events that one call looks at, whosever they are."""

Broken = list[tuple[int, str]]
"""Keys of jobs that cannot be read, and why."""


def find(connection: apsw.Connection, job_id: str, broken: Broken) -> StoredJob | None:
    """The job called so."""
    return next(_decoded(rows(connection, "SELECT key, doc FROM job WHERE id = ?", job_id), broken), None)


def page(connection: apsw.Connection, query: JobQuery, broken: Broken) -> Page:
    """The newest jobs that a query wants."""
    conditions, values = _conditions(query)
    limit = max(1, min(query.limit, LONGEST_PAGE))
    index = "job_in_order" if query.owner is None else "job_of_owner_in_order"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    # Found in an index that has all that is asked for: the jobs that are not wanted are not read, which takes ten times
    # as long, and everybody waits for it.
    keys = f"SELECT key FROM job INDEXED BY {index} {where} ORDER BY key DESC LIMIT ?"  # noqa: S608  # nothing of a caller's
    if query.looks_into_records:
        return _page_looked_for(connection, query, keys, values, broken)
    statement = f"SELECT key, doc FROM job WHERE key IN ({keys}) ORDER BY key DESC"  # noqa: S608  # as above
    found: list[tuple[int, str]] = []
    size = 0
    for key, doc in connection.execute(statement, (*values, limit + 1)):
        size += len(doc)
        if len(found) == limit or (found and size > PAGE_CHARACTERS):
            return Page(jobs=tuple(_decoded(found, broken)), next=found[-1][0])
        found.append((key, doc))
    return Page(jobs=tuple(_decoded(found, broken)), next=None)


def _page_looked_for(
    connection: apsw.Connection, query: JobQuery, keys: str, values: list[apsw.SQLiteValue], broken: Broken
) -> Page:
    """Those of the next LOOKED_AT jobs that are called so; one that cannot be read is set aside, whatever it is called."""
    wanted, texts = _called(query)
    statement = (
        f"SELECT key, CASE WHEN NOT json_valid(doc) OR ({wanted}) THEN doc END FROM job"  # noqa: S608  # as above
        f" WHERE key IN ({keys}) ORDER BY key DESC"
    )
    limit = max(1, min(query.limit, LONGEST_PAGE))
    found: list[tuple[int, str]] = []
    last, seen, size = 0, 0, 0
    for key, doc in connection.execute(statement, (*texts, *values, LOOKED_AT + 1)):
        size += len(doc or "")
        if seen == LOOKED_AT or len(found) == limit or (found and size > PAGE_CHARACTERS):
            return Page(jobs=tuple(_decoded(found, broken)), next=last)
        last, seen = key, seen + 1
        if doc is not None:
            found.append((key, doc))
    return Page(jobs=tuple(_decoded(found, broken)), next=None)


def _called(query: JobQuery) -> tuple[str, list[apsw.SQLiteValue]]:
    """What holds of the documents of jobs that are called so: a key of a label has nothing that a path of JSON would mind."""
    named = [("$.name", query.name)] if query.name else []
    pairs = [*named, *((f'$.labels."{key}"', value) for key, value in query.labels)]
    condition = " AND ".join("json_extract(doc, ?) IS ?" for _ in pairs)
    return condition, [text for pair in pairs for text in pair]


def _conditions(query: JobQuery) -> tuple[list[str], list[apsw.SQLiteValue]]:
    conditions: list[str] = []
    values: list[apsw.SQLiteValue] = []
    if query.owner is not None:
        conditions.append("owner = ?")
        values.append(query.owner)
    if query.causes is not None:
        is_open = "cause IS NULL" if query.with_open else "FALSE"
        has_cause = f"cause IN ({', '.join('?' * len(query.causes))})"
        conditions.append(f"({is_open} OR {has_cause})" if query.causes else is_open)
        values.extend(query.causes)
    elif not query.with_open:
        conditions.append("cause IS NOT NULL")
    for condition, moment in (("started >= ?", query.started_from), ("started < ?", query.started_before)):
        if moment is not None:
            conditions.append(condition)
            values.append(microseconds(moment))
    if query.before is not None:
        conditions.append("key < ?")
        values.append(query.before)
    return conditions, values


def _decoded(found: Iterable[tuple[Any, ...]], broken: Broken) -> Iterator[StoredJob]:
    for key, doc in found:
        try:
            yield StoredJob(key=key, record=decode_record(doc))
        except Undecodable as error:
            broken.append((key, str(error)))


def open_jobs(connection: apsw.Connection, broken: Broken) -> list[tuple[OpenJob, bool]]:
    """The jobs that have not ended, from their events, and whether the table `job` says the same of each."""
    docs = dict[int, str](rows(connection, "SELECT key, doc FROM job WHERE ended IS NULL ORDER BY key"))
    found = rows(
        connection,
        "SELECT event.job, event.at, event.type, event.doc FROM job CROSS JOIN event ON event.job = job.key"
        " WHERE job.ended IS NULL ORDER BY event.job, event.seq",
    )
    events = {key: [each[1:] for each in group] for key, group in groupby(found, lambda each: each[0])}
    jobs = []
    for key, doc in docs.items():
        try:
            job = _replay(key, events.get(key, []))
        except (Undecodable, InvalidTransition) as error:
            broken.append((key, str(error)))
        else:
            jobs.append((job, _record_or_none(doc) == job.record))
    return jobs


def _replay(key: int, found: list[tuple[Any, ...]]) -> OpenJob:
    launched, record, last = None, None, 0
    for at, name, doc in found:
        event = decode_event(name, doc)
        if record is not None:
            record = apply(record, event)
        elif isinstance(event, Launched):
            launched, record = event, record_of(event)
        else:
            raise Undecodable(f"its first event is {name!r}")
        last = max(last, at)
    if launched is None or record is None:
        raise Undecodable("it has no events")
    return OpenJob(key=key, launched=launched, record=record, last_event_at=time_of(last))


def _record_or_none(doc: str) -> JobRecord | None:
    try:
        return decode_record(doc)
    except Undecodable:
        return None


_OF_JOBS: Final = (
    "SELECT event.seq, event.at, job.id, job.owner, event.type, event.doc, job.key"
    " FROM event CROSS JOIN job ON job.key = event.job WHERE event.seq > ?1"
)
_OF_ANY_JOBS: Final = (
    "SELECT event.seq, event.at, coalesce(job.id, uncopied.id, aside.id),"
    " coalesce(job.owner, uncopied.owner, aside.owner), event.type, event.doc, event.job"
    " FROM event LEFT JOIN job ON job.key = event.job LEFT JOIN uncopied ON uncopied.key = event.job"
    " LEFT JOIN aside ON aside.key = event.job"
    " WHERE event.seq > ?1 AND coalesce(job.key, uncopied.key, aside.key) IS NOT NULL"
)
"""Those of jobs that are removed or set aside included, as far as they are there."""


def events(
    connection: apsw.Connection,
    after: int,
    owner: str | None,
    limit: int,
    last_seq: int,
    broken: Broken,
    *,
    of_removed: bool,
) -> Events:
    """What happened after the sequence number `after`, to the jobs of `owner` (None: of anybody)."""
    of_jobs = _OF_ANY_JOBS if of_removed else _OF_JOBS
    happened = connection.execute(
        f"{of_jobs} UNION ALL SELECT seq, at, job_id, owner, NULL, NULL, NULL FROM removal WHERE seq > ?1 ORDER BY 1 LIMIT ?2",  # noqa: S608  # nothing of a caller's
        (after, EVENTS_AT_ONCE),
    )
    found: list[JournalledEvent] = []
    seen = size = 0
    position = after
    for seq, at, job_id, of, name, doc, key in happened:
        if owner is None or of == owner:
            characters = len(doc or "")
            size += characters
            if len(found) == limit or (found and size > EVENTS_CHARACTERS):
                break
            try:
                event = Removed() if name is None else decode_event(name, doc)
            except Undecodable as error:
                broken.append((key, str(error)))
            else:
                happening = JournalledEvent(
                    seq=seq, at=time_of(at), job_id=JobId(job_id), owner=of, event=event, characters=characters
                )
                found.append(happening)
        seen, position = seen + 1, seq
    else:
        if seen < EVENTS_AT_ONCE:
            position = max(after, last_seq)
    return Events(events=tuple(found), position=position, horizon=_horizon(connection, owner))


def _horizon(connection: apsw.Connection, owner: str | None) -> int:
    """Of one client, or (None) of all; `number` has what versions before 3 forgot of anybody."""
    found = value(
        connection,
        "SELECT max((SELECT value FROM number WHERE name = 'horizon'),"
        " (SELECT coalesce(max(seq), 0) FROM horizon WHERE ?1 IS NULL OR owner = ?1))",
        owner,
    )
    return int(found)


def request(connection: apsw.Connection, owner: str, request_id: str) -> StoredRequest | None:
    """What a client's request id stands for."""
    found = row(
        connection,
        "SELECT digest, job_id, error, job.id IS NOT NULL AND ended IS NULL FROM request "
        "LEFT JOIN job ON job.id = job_id WHERE request.owner = ? AND request_id = ?",
        owner,
        request_id,
    )
    if found is None:
        return None
    digest, job_id, error, is_open = found
    try:
        repeated = decode_request_error(error) if error is not None else None
    except Undecodable:
        repeated = None  # what is left says that the job is gone
    return StoredRequest(digest=digest, job_id=JobId(job_id), error=repeated, is_open=bool(is_open))


def ended_outputs(connection: apsw.Connection, after: int) -> list[EndedOutput]:
    """The ended jobs with a key greater than `after`, in the order of their keys; LONGEST_PAGE of them at most."""
    # In a string of a document, such as an argument, the quotes have backslashes.
    found = rows(
        connection,
        "SELECT key, id, owner, coalesce(ended_seq, key), instr(doc, ?) > 0"
        " FROM job WHERE key > ? AND ended IS NOT NULL ORDER BY key LIMIT ?",
        '"output_pruned":{',
        after,
        LONGEST_PAGE,
    )
    return [
        EndedOutput(key=key, job_id=JobId(job_id), owner=owner, ended_seq=seq, is_pruned=bool(is_pruned))
        for key, job_id, owner, seq, is_pruned in found
    ]


def expired(connection: apsw.Connection, retention: Retention, now: datetime, limit: int) -> list[tuple[JobId, str]]:
    """The ended jobs that are to go next, each with its owner."""
    counts = dict[str, int](rows(connection, "SELECT owner, count(*) FROM job WHERE ended IS NOT NULL GROUP BY owner"))
    surplus = _surplus(counts, retention, limit)
    oldest = microseconds(now - retention.age) if retention.age is not None else None
    gone: list[tuple[JobId, str]] = []
    for owner in counts:
        left = limit - len(gone)
        surplus_ids = rows(
            connection,
            "SELECT id FROM job WHERE owner = ? AND ended IS NOT NULL ORDER BY ended_seq LIMIT ?",
            owner,
            min(left, surplus[owner]),
        )
        old_ids = rows(
            connection,
            "SELECT id FROM job WHERE owner = ? AND ended IS NOT NULL AND ended < ? ORDER BY ended LIMIT ?",
            owner,
            oldest,
            left,
        )
        of_owner = dict.fromkeys(job_id for (job_id,) in (*surplus_ids, *old_ids))
        gone += [(JobId(job_id), owner) for job_id in list(of_owner)[:left]]
    return gone


def _surplus(counts: dict[str, int], retention: Retention, limit: int) -> dict[str, int]:
    """How many jobs of each client are too many."""
    left = {owner: min(count, retention.ended_of_client) for owner, count in counts.items()}
    for _ in range(min(limit, sum(left.values()) - retention.ended)):
        most = max(left, key=lambda owner: left[owner])
        left[most] -= 1
    return {owner: count - left[owner] for owner, count in counts.items()}


def discarded(connection: apsw.Connection, after: str, limit: int) -> list[JobId]:
    """Jobs that are forgotten and whose output is to be removed, in the order of their ids."""
    statement = "SELECT job_id FROM discarded WHERE job_id > ? ORDER BY job_id LIMIT ?"
    return [JobId(job_id) for (job_id,) in rows(connection, statement, after, limit)]


def aside(connection: apsw.Connection) -> list[AsideJob]:
    """The jobs that were set aside."""
    found = rows(connection, "SELECT key, id, owner, at, reason FROM aside ORDER BY key LIMIT ?", LONGEST_PAGE)
    return [
        AsideJob(key=key, id=job_id, owner=owner, at=time_of(at), reason=reason)
        for key, job_id, owner, at, reason in found
    ]


def aged(connection: apsw.Connection) -> datetime | None:
    """How far age had come when that was stored last; None where it never was, or is damaged."""
    return _sound(value(connection, "SELECT value FROM number WHERE name = 'aged'"))


def newest(connection: apsw.Connection) -> datetime | None:
    """When the last event that is there happened; None where none is, or its time is damaged."""
    return _sound(value(connection, "SELECT at FROM event ORDER BY seq DESC LIMIT 1"))


def _sound(column: int | None) -> datetime | None:
    if column is None or column in SOUND_TIMES:
        return None if column is None else time_of(column)
    logger.warning("the time %d in the journal is damaged: how long ended jobs are kept goes by the others", column)
    return None


def last_seq(connection: apsw.Connection) -> int:
    """The greatest sequence number that was ever given."""
    greatest = value(
        connection,
        "SELECT max((SELECT coalesce(max(seq), 0) FROM sqlite_sequence), (SELECT coalesce(max(seq), 0) FROM removal),"
        " (SELECT value FROM number WHERE name = 'horizon'), (SELECT coalesce(max(seq), 0) FROM horizon))",
    )
    return int(greatest)
