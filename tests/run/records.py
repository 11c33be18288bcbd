"""Records in memory, with the claims of the journal's: for tests on a clock that jumps, which knows no threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import FailedToStart
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord, Launched, apply, record_of
from jobmaster.job.request import RequestError
from jobmaster.job.state import Ended
from jobmaster.journal.stored import Events, JobQuery, OpenJob, Page, Retention, StoredJob, StoredRequest


@dataclass(slots=True, kw_only=True)
class MemoryRecords:
    """Records of jobs.

    Attributes:
        commit_seconds: how long a commit takes.
        is_writable: False while nothing can be written.
        jobs: the records, those that ended in the order of their ends.
        written: every event that was written, with whose it is.
    """

    commit_seconds: float = 0.0
    is_writable: bool = True
    jobs: dict[JobId, JobRecord] = field(default_factory=dict)
    launched: dict[JobId, Launched] = field(default_factory=dict)
    written: list[tuple[JobId, JobEvent]] = field(default_factory=list)
    requests: dict[tuple[str, str], StoredRequest] = field(default_factory=dict)
    keys: dict[JobId, tuple[str, str]] = field(default_factory=dict)

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Writes an event after a commit's time."""
        await trio.lowlevel.checkpoint()
        await trio.sleep(self.commit_seconds)
        if not self.is_writable:
            raise JournalUnavailable("the server's journal cannot be written")
        self._write(job_id, event, None)
        return len(self.written)

    def post(self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None) -> None:
        """Writes an event at once."""
        self._write(job_id, event, request_error)

    def _write(self, job_id: JobId, event: JobEvent, request_error: RequestError | None) -> None:
        record = self.jobs.get(job_id)
        if isinstance(event, Launched):
            self.jobs[job_id] = record_of(event)
            self.launched[job_id] = event
            if event.request is not None:
                name = event.owner, event.request.id
                self.keys[job_id] = name
                self.requests[name] = StoredRequest(digest=event.request.digest, job_id=job_id)
        elif record is None:
            return
        else:
            self._change(apply(record, event), request_error)
        self.written.append((job_id, event))

    def _change(self, record: JobRecord, request_error: RequestError | None) -> None:
        match record.state:
            case Ended(cause=FailedToStart()):
                del self.jobs[record.id]
                self._release(record.id, request_error)
            case Ended():
                del self.jobs[record.id]  # to come last
                self.jobs[record.id] = record
            case _:
                self.jobs[record.id] = record

    def _release(self, job_id: JobId, request_error: RequestError | None) -> None:
        if (name := self.keys.pop(job_id, None)) is None:
            return
        request = self.requests.pop(name)
        if request_error is not None:
            self.requests[name] = StoredRequest(digest=request.digest, job_id=job_id, error=request_error)

    async def open_jobs(self) -> Sequence[OpenJob]:
        """The jobs that have not ended."""
        await trio.lowlevel.checkpoint()
        return [
            OpenJob(key=key, launched=self.launched[record.id], record=record, last_event_at=record.state.started_at)
            for key, record in enumerate(self.jobs.values())
            if not isinstance(record.state, Ended)
        ]

    async def find(self, job_id: JobId) -> StoredJob | None:
        """A job."""
        await trio.lowlevel.checkpoint()
        record = self.jobs.get(job_id)
        return None if record is None else StoredJob(key=0, record=record)

    async def page(self, query: JobQuery) -> Page:
        """All jobs of an owner, the newest first."""
        await trio.lowlevel.checkpoint()
        jobs = [record for record in self.jobs.values() if query.owner in {None, record.owner}]
        return Page(jobs=tuple(StoredJob(key=0, record=record) for record in reversed(jobs)), next=None)

    async def events(self, after: int, owner: str | None = None, limit: int = 100) -> Events:
        """None are told."""
        del after, owner, limit
        await trio.lowlevel.checkpoint()
        return Events(events=(), position=len(self.written), horizon=0)

    async def wait_after(self, seq: int) -> None:
        """Never returns."""
        del seq
        await trio.sleep_forever()

    async def request(self, owner: str, request_id: str) -> StoredRequest | None:
        """What a client's request id stands for."""
        await trio.lowlevel.checkpoint()
        return self.requests.get((owner, request_id))

    async def settle(self) -> None:
        """Everything is written already."""
        await trio.lowlevel.checkpoint()

    async def expired(self, retention: Retention) -> Sequence[tuple[JobId, str]]:
        """Those above the bounds on their number, the oldest of the client that has most first."""
        await trio.lowlevel.checkpoint()
        ended = [record for record in self.jobs.values() if isinstance(record.state, Ended)]
        left = Counter(record.owner for record in ended)
        expired: list[tuple[JobId, str]] = []
        for record in ended:
            most = max(left.values())
            is_too_many = left.total() > retention.ended and left[record.owner] == most
            if left[record.owner] > retention.ended_of_client or is_too_many:
                left[record.owner] -= 1
                expired.append((record.id, record.owner))
        return expired

    async def remove(self, job_ids: Sequence[JobId]) -> None:
        """Forgets jobs."""
        await trio.lowlevel.checkpoint()
        for job_id in job_ids:
            self.jobs.pop(job_id, None)
