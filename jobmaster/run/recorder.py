"""What supervisors and registry need of a journal, as protocols: events that become durable, and what is read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from jobmaster.job.history import Events, JobQuery, Page
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord
from jobmaster.job.request import RequestError


class Recorder(Protocol):
    """Takes the events of each job in the order in which they happened."""

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Returns the event's sequence number once it is durable.

        A caller that is cancelled before the event is taken for writing has it withdrawn; later, the call returns.

        Raises:
            JournalUnavailable: it is not known to be durable.
        """

    def post(self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None) -> None:
        """Has an event written in its turn, and does not wait for it. An event of a job that is not there is nothing.

        Args:
            job_id: whose.
            event: what happened.
            request_error: of a job that was never executed: what its request id is to be answered from now on.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What became of a Start with a request id: a job, or an error that is to be repeated."""

    digest: bytes
    job_id: JobId | None
    error: RequestError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which records of ended jobs are kept.

    Attributes:
        jobs: of all clients; of the client that has most, the oldest goes first.
        jobs_of_client: of one client.
        age: since their end; None keeps them whatever their age.
    """

    jobs: int
    jobs_of_client: int
    age: timedelta | None = None


class Records(Recorder, Protocol):
    """The records of all jobs, those that have ended included."""

    async def open_jobs(self) -> Sequence[JobRecord]:
        """The jobs that have not ended."""

    async def job(self, job_id: JobId) -> JobRecord | None:
        """The record of a job."""

    async def request(self, owner: str, request_id: str) -> Request | None:
        """What became of a Start with this request id, if there was one."""

    async def page(self, query: JobQuery) -> Page:
        """The newest jobs that a query wants."""

    async def events(self, after: int, owner: str | None, limit: int) -> Events:
        """What happened after the sequence number `after`, to the jobs of `owner` (None: of anybody)."""

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that was given."""

    async def wait_after(self, seq: int) -> None:
        """Returns when there are events after `seq`."""

    async def settled(self) -> None:
        """Waits until everything that was posted until now is written, or cannot be."""

    async def expired(self, retention: Retention, limit: int) -> Sequence[JobId]:
        """Ended jobs that are not to be kept, those that ended first first."""

    async def remove(self, job_ids: Sequence[JobId]) -> None:
        """Forgets jobs."""
