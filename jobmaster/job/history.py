"""What is asked of the records of all jobs, and the answers, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job as the journal has it.

    Attributes:
        key: the sequence number of its first event; jobs are in the order of their keys.
    """

    key: int
    record: JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs a page has; the newest is first.

    Attributes:
        owner: only those of this client.
        with_open: those that have not ended, too.
        causes: of those that have ended, only those that ended so, by the names of causes; None: all of them.
        started_from: only those that started then or later.
        started_before: only those that started before then.
        before: only those with a smaller key: `Page.next` of the page before.
        limit: how many at most.
    """

    owner: str | None = None
    with_open: bool = True
    causes: tuple[str, ...] | None = None
    started_from: datetime | None = None
    started_before: datetime | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs; `next` is None where no others follow."""

    jobs: tuple[StoredJob, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Removed:
    """The journal has forgotten the job: it was pruned, or never executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalledEvent:
    """An event as the journal has it."""

    seq: int
    at: datetime
    job_id: JobId
    owner: str
    event: JobEvent | Removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Events in the order of their sequence numbers; those of jobs that have been removed are not among them.

    Attributes:
        position: all up to this sequence number has been looked at; the next call goes on after it.
        horizon: who has not seen all up to this sequence number may have missed that a job was removed.
    """

    events: tuple[JournalledEvent, ...]
    position: int
    horizon: int
