"""What supervisors and registry need of the journal, as protocols: events that become durable, and what is read back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent
from jobmaster.job.request import RequestError
from jobmaster.journal.stored import EndedOutput, Events, JobQuery, OpenJob, Page, Retention, StoredJob, StoredRequest


class Recorder(Protocol):
    """Takes the events of each job in the order in which they happened."""

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Returns the event's sequence number once it is durable.

        A caller that is cancelled before a launch is taken for writing has it withdrawn; any other event is written in its
        turn, whoever leaves.

        Raises:
            JournalUnavailable: it is not durable. A launch may become so where the error `is_doubtful`: then its end has to
                be posted; any other event may in any case.
        """

    def post(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False
    ) -> None:
        """Has an event written in its turn, and does not wait for it. An event of a job that is not there is nothing.

        Args:
            job_id: whose.
            event: what happened.
            request_error: of a job that was never executed: what its request id is to be answered from now on.
            forget: the job and its request id are forgotten with this event, its end: nobody was told of it. Its output is
                `discarded`.

        Raises:
            JournalUnavailable: too many events wait to be written.
        """

    async def settle(self) -> None:
        """Returns when everything that was given until now is written, or cannot be."""

    @property
    def unwritten(self) -> Sequence[JobId]:
        """The jobs of which something was given and is not written yet, or never will be."""


class Records(Recorder, Protocol):
    """The records of all jobs, those that have ended included. Every question may raise JournalUnavailable."""

    async def open_jobs(self) -> Sequence[OpenJob]:
        """The jobs that have not ended."""

    async def find(self, job_id: JobId) -> StoredJob | None:
        """A job."""

    async def page(self, query: JobQuery) -> Page:
        """The newest jobs that a query wants."""

    async def events(self, after: int, owner: str | None, limit: int) -> Events:
        """What happened after a sequence number, to the jobs of one client or (None) of all."""

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that was given."""

    def backup(self) -> AbstractAsyncContextManager[int]:
        """A complete copy of all records for the block, as a descriptor to read it from.

        Raises:
            ServerBusy: there is one already.
        """

    async def wait_after(self, seq: int) -> None:
        """Returns when there are events after a sequence number."""

    async def request(self, owner: str, request_id: str) -> StoredRequest | None:
        """What a client's request id stands for."""

    async def expired(self, retention: Retention) -> Sequence[tuple[JobId, str]]:
        """Some of the ended jobs that are not to be kept, each with its owner; none where none is left."""

    async def ended_outputs(self, after: int) -> Sequence[EndedOutput]:
        """The ended jobs with a key greater than `after`, some at a time, in the order of their keys; none at the end."""

    async def remove(self, job_ids: Sequence[JobId], *, given_up: bool = False) -> None:
        """Forgets ended jobs whose output is gone, and their request ids in time.

        Those of which nobody was told are `given_up`: their request ids are forgotten at once, their outputs `discarded`.
        """

    async def discarded(self, after: str = "") -> Sequence[JobId]:
        """Some of the jobs that are forgotten and whose output may still be there, in the order of their ids."""

    async def forget_discarded(self, job_ids: Sequence[JobId]) -> None:
        """The outputs of these jobs are gone."""
