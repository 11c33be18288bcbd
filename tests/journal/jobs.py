"""Jobs for tests: first events, whole lives, and a journal's content as a whole."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import reduce
from pathlib import Path
from typing import Final

from jobmaster.job.cause import Cause, Exited, FailedToStart, Signalled, StopOrder, Stopped
from jobmaster.job.identifier import JobId, encode, new_job_id
from jobmaster.job.record import JobEvent, JobRecord, Launched, LimitReport, OomKillsCounted, apply, record_of
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Finished, KillSent, MainProcessDied, StopOrdered, StopSignalled
from jobmaster.journal.database import Database
from jobmaster.journal.stored import Entry, JobQuery, Written

NOON: Final = datetime(2026, 1, 2, 12, tzinfo=UTC)
BOOT: Final = "7b1c4a5e-0d6f-4a53-9d0c-3f0a2f1c9e11"


class Seconds:
    """A monotonic clock that a test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """What it shows."""
        return self.now


class Wall:
    """In place of the class datetime: a clock on the wall."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self, _: tzinfo) -> datetime:
        """What it shows."""
        return self.time


def job_id(number: int) -> JobId:
    """A job id that is always the same for the same number."""
    return encode(number, bytes(16))


def key(name: str, content: bytes = b"") -> RequestKey:
    """A caller's name for a Start."""
    return RequestKey(id=name, digest=hashlib.sha256(content).digest())


def launched(owner: str = "client1", *, of: JobId | None = None, request: RequestKey | None = None) -> Launched:
    """The first event of a job."""
    return Launched(
        id=of or new_job_id(),
        owner=owner,
        command=CommandLine.of(JobSpecification(command="ls", args=("-l", "\udcff"))),
        pid=42,
        start_time=7_000,
        boot_id=BOOT,
        at=NOON,
        limits=(LimitReport(name="memory", value="memory.max 1"),),
        request=request,
    )


def finished(cause: Cause | None = None, *, minutes: int = 1) -> Finished:
    """The end of a job."""
    return Finished(cause=cause or Exited(0), at=NOON + timedelta(minutes=minutes), output_bytes=5, output_bytes_lost=0)


NEVER_EXECUTED: Final = Finished(
    cause=FailedToStart("command 'x' not found"), at=NOON, output_bytes=0, output_bytes_lost=0
)
RETURNED: Final[tuple[JobEvent, ...]] = (Executed(), MainProcessDied(death=Exited(0)), finished())
STOPPED: Final[tuple[JobEvent, ...]] = (
    Executed(),
    OomKillsCounted(count=1),
    StopOrdered(order=StopOrder(by="client1", requested_at=NOON, reason="enough")),
    StopSignalled(),
    KillSent(),
    MainProcessDied(death=Signalled(9)),
    finished(Stopped(by="client1", requested_at=NOON, signal=9, killed=True, reason="enough")),
)


def entries(first: Launched, *events: JobEvent) -> list[Entry]:
    """What is written of a job to which this happens."""
    return [Entry.of(first.id, event) for event in (first, *events)]


def record_after(first: Launched, *events: JobEvent) -> JobRecord:
    """The record of a job to which this has happened."""
    return reduce(apply, events, record_of(first))


def write(database: Database, first: Launched, *events: JobEvent) -> list[Written]:
    """Writes a job to which this happens."""
    return database.write(entries(first, *events))


def records(database: Database) -> list[JobRecord]:
    """Every job, the newest first."""
    page = database.page(JobQuery(limit=1_000))
    found = [job.record for job in page.jobs]
    while page.next is not None:
        page = database.page(JobQuery(limit=1_000, before=page.next))
        found += [job.record for job in page.jobs]
    return found


def database_in(folder: Path, seconds: Callable[[], float] = time.monotonic) -> Database:
    """The journal of a folder."""
    return Database.open(folder / "journal.db", seconds=seconds)


def ids(jobs: Iterable[JobRecord]) -> list[JobId]:
    """Their ids."""
    return [record.id for record in jobs]
