"""What goes into the journal and what comes out of it, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from jobmaster.errors import JobmasterError
from jobmaster.job.identifier import JobId
from jobmaster.job.labels import Labels
from jobmaster.job.record import JobEvent, JobRecord, Launched, OutputPruned, Paused, Resumed, SignalOrdered
from jobmaster.job.request import RequestError
from jobmaster.job.state import Finished, InvalidTransition, StopOrdered
from jobmaster.journal.codec import encode_event

EVENTS_CHARACTERS: Final = 64 * 1024
"""Of the events of one answer, as they are written in the database: each of many who follow may hold one for as long as
it takes nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SOUND_TIMES: Final = range((datetime(9000, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1))
"""What columns have of times; others are damaged, and near the ends of what can be reckoned with."""


class EntryRefused(Exception):
    """An event that cannot be written whatever the disk does: a bug in the server. Others of its batch are written."""


class UnknownJob(EntryRefused):
    """There is no such job: it was never launched, or it has been removed."""


class DuplicateJob(EntryRefused):
    """A job of this id was launched before."""


class RequestTaken(EntryRefused, JobmasterError):
    """The request id of this launch stands for another job of its owner; no bug, but how a Start that comes again is known."""


Written = int | EntryRefused | InvalidTransition
"""What has become of an entry: it has a sequence number, or cannot be."""


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """One event on its way into the database.

    Attributes:
        at: when it happened, as well as that is known.
        type: of the event, as it is written.
        doc: the event's document.
        request_error: what the request id of a job that was never executed is to be answered from now on.
        forget: whether the job and its request id are forgotten with this event, its end.
        written: its sequence number, or why it cannot be; None until that is known.
    """

    job_id: JobId
    event: JobEvent
    at: datetime
    type: str
    doc: str
    request_error: RequestError | None = None
    forget: bool = False
    written: Written | None = None

    @classmethod
    def of(
        cls, job_id: JobId, event: JobEvent, *, request_error: RequestError | None = None, forget: bool = False
    ) -> Entry:
        """The entry for an event that happens now.

        Raises:
            ValueError: nothing can be written that reads as this event.
        """
        if isinstance(event, Launched):
            if event.id != job_id:
                raise ValueError(f"the first event of {event.id} is no event of {job_id}")
            event.owner.encode()  # a column of its own, which no surrogate can be in
        name, doc = encode_event(event)
        return cls(
            job_id=job_id,
            event=event,
            at=_time_of(event),
            type=name,
            doc=doc,
            request_error=request_error,
            forget=forget,
        )


def _time_of(event: JobEvent) -> datetime:
    match event:
        case Launched(at=at) | Finished(at=at) | OutputPruned(at=at) | Paused(at=at) | Resumed(at=at):
            return at
        case SignalOrdered(at=at):
            return at
        case StopOrdered(order=order):
            return order.requested_at
        case _:
            return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job as the journal has it.

    Attributes:
        key: the sequence number of its first event; jobs are in the order of their keys.
    """

    key: int
    record: JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that has not ended, as the replay of its events gives it.

    Attributes:
        key: as in `StoredJob`.
        launched: its first event.
        last_event_at: the last time at which it is known to have been there.
    """

    key: int
    launched: Launched
    record: JobRecord
    last_event_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedOutput:
    """Whose the output of an ended job is.

    Attributes:
        key: as in `StoredJob`.
        ended_seq: rises in the order in which jobs have ended.
        is_pruned: the record says that the output was removed.
    """

    key: int
    job_id: JobId
    owner: str
    ended_seq: int
    is_pruned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AsideJob:
    """A job whose events or record cannot be read; it is in no list, and what is left of it stays in the database.

    Attributes:
        key: as in `StoredJob`.
        at: when it was set aside.
        reason: what cannot be read, for the operator.
    """

    key: int
    id: str
    owner: str
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """What a request id stands for.

    Attributes:
        digest: as in `RequestKey`.
        job_id: the job that was started by it; it may be gone.
        error: why that job was never executed, where this is to be repeated.
        is_open: the job has not ended, as far as the journal knows.
    """

    digest: bytes
    job_id: JobId
    error: RequestError | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs a page has; the newest is first.

    Attributes:
        owner: of this client alone.
        with_open: those that have not ended, too.
        causes: of those that have ended, only those that ended so, by `codec.cause_name`; None: all of them.
        started_from: only those that started then or later.
        started_before: only those that started before then.
        name: only those that are called so; empty: all.
        labels: only those that have all of these.
        before: only jobs with a smaller key: `Page.next` of the page before.
        limit: how many jobs at most.
    """

    owner: str | None = None
    with_open: bool = True
    causes: tuple[str, ...] | None = None
    started_from: datetime | None = None
    started_before: datetime | None = None
    name: str = ""
    labels: Labels = ()
    before: int | None = None
    limit: int = 100

    @property
    def looks_into_records(self) -> bool:
        """Whether it asks for what columns do not have."""
        return bool(self.name or self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs, or none; `next` is None where no others follow."""

    jobs: tuple[StoredJob, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Removed:
    """The journal has forgotten the job: it was pruned, or never executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalledEvent:
    """An event as the journal has it.

    Attributes:
        characters: how long it is as it is written in the database.
    """

    seq: int
    at: datetime
    job_id: JobId
    owner: str
    event: JobEvent | Removed
    characters: int = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many ended jobs are kept; of the client that has most, the one that ended first is the first to go.

    Attributes:
        ended: in all.
        ended_of_client: of one client.
        age: time of `AgeClock` since their end; None for as long as there is room.
    """

    ended: int
    ended_of_client: int
    age: timedelta | None = None


def microseconds(time: datetime) -> int:
    """A time as columns have it: microseconds since 1970 in UTC."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def time_of(value: int) -> datetime:
    """The time that a column has; of a damaged one, the nearest sound time."""
    return _EPOCH + timedelta(microseconds=min(max(value, SOUND_TIMES[0]), SOUND_TIMES[-1]))
