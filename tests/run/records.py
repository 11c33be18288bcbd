"""Records in memory, with the claims of the journal's: for tests on a clock that jumps, which knows no threads."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import (
    Exited,
    FailedToStart,
    OomKilled,
    ServerLost,
    ServerShutdown,
    Signalled,
    Stopped,
    TimedOut,
)
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord, Launched, apply, record_of
from jobmaster.job.request import RequestError
from jobmaster.job.state import Ended
from jobmaster.journal.stored import (
    EndedOutput,
    Events,
    JobQuery,
    JournalledEvent,
    OpenJob,
    Page,
    Removed,
    RequestTaken,
    Retention,
    StoredJob,
    StoredRequest,
)

CAUSE_NAMES: Final = {
    Exited: "exited",
    Signalled: "signalled",
    Stopped: "stopped",
    OomKilled: "oom_killed",
    FailedToStart: "failed_to_start",
    ServerShutdown: "server_shutdown",
    ServerLost: "server_lost",
    TimedOut: "timed_out",
}


@dataclass(slots=True, kw_only=True)
class MemoryRecords:
    """Records of jobs.

    Attributes:
        commit_seconds: how long a commit takes.
        commits_are_shielded: an event that is given is written, whoever leaves meanwhile.
        settle_seconds: how long all takes that was posted.
        is_writable: False while nothing can be written.
        is_doubtful: launches are written when all is settled, and their callers are refused.
        posts_wait: what is posted is written with the next event that somebody waits for, or when all is settled.
        jobs: the records, those that ended in the order of their ends.
        written: every event that was written, with whose it is.
        happened: the same with who owns the job, and the removals.
        gone: jobs that are forgotten and whose output may still be there.
        horizon: of each client, the last event of which removals are not told any more.
        reads: how often events were read.
        looks_for_expired: how often it was asked what is not to be kept.
    """

    commit_seconds: float = 0.0
    commits_are_shielded: bool = False
    settle_seconds: float = 0.0
    is_writable: bool = True
    is_doubtful: bool = False
    posts_wait: bool = False
    posted: list[tuple[JobId, JobEvent, RequestError | None, bool]] = field(default_factory=list)
    jobs: dict[JobId, JobRecord] = field(default_factory=dict)
    launched: dict[JobId, Launched] = field(default_factory=dict)
    written: list[tuple[JobId, JobEvent]] = field(default_factory=list)
    requests: dict[tuple[str, str], StoredRequest] = field(default_factory=dict)
    keys: dict[JobId, tuple[str, str]] = field(default_factory=dict)
    happened: list[JournalledEvent] = field(default_factory=list)
    horizon: dict[str, int] = field(default_factory=dict)
    gone: set[JobId] = field(default_factory=set)
    reads: int = 0
    looks_for_expired: int = 0
    grown: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Writes an event after a commit's time."""
        with self._given(job_id, event):
            await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=self.commits_are_shielded):
                await trio.sleep(self.commit_seconds)
        if not self.is_writable:
            raise JournalUnavailable("the server's journal cannot be written")
        if self.is_doubtful and isinstance(event, Launched):
            self.posted.append((job_id, event, None, False))
            raise JournalUnavailable("the server's journal cannot be written", is_doubtful=True)
        self._write_posted()
        if isinstance(event, Launched) and event.request and (event.owner, event.request.id) in self.requests:
            raise RequestTaken(event.request.id)
        self._write(job_id, event, None)
        return self.last_seq

    @contextmanager
    def _given(self, job_id: JobId, event: JobEvent) -> Iterator[None]:
        """What is no launch is written without a caller that leaves in the block."""
        try:
            yield
        except trio.Cancelled:
            if not isinstance(event, Launched):
                self.posted.append((job_id, event, None, False))
                if self.commit_seconds == 0 and not self.posts_wait:
                    self._write_posted()
            raise

    @property
    def unwritten(self) -> Sequence[JobId]:
        """Those of which something was posted."""
        return [job_id for job_id, *_ in self.posted]

    def post(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False
    ) -> None:
        """Writes an event at once, unless posts wait."""
        self.posted.append((job_id, event, request_error, forget))
        if not self.posts_wait:
            self._write_posted()

    def _write_posted(self) -> None:
        posted, self.posted = self.posted, []
        for job_id, event, request_error, forget in posted:
            self._write(job_id, event, request_error, forget=forget)

    def _write(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None, *, forget: bool = False
    ) -> None:
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
            self._change(apply(record, event), request_error, forget=forget)
        self.written.append((job_id, event))
        owner = event.owner if isinstance(event, Launched) else record.owner if record is not None else ""
        self._note(job_id, owner, event if job_id in self.jobs else Removed())

    def _note(self, job_id: JobId, owner: str, event: JobEvent | Removed) -> None:
        at = datetime.now(UTC)
        self.happened.append(JournalledEvent(seq=self.last_seq + 1, at=at, job_id=job_id, owner=owner, event=event))
        self.grown.unpark_all()

    def _change(self, record: JobRecord, request_error: RequestError | None, *, forget: bool) -> None:
        match record.state:
            case Ended(cause=cause) if forget or isinstance(cause, FailedToStart):
                del self.jobs[record.id]
                self._release(record.id, request_error)
                self.gone |= {record.id} if forget else set()
            case Ended() if not isinstance(self.jobs[record.id].state, Ended):
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

    async def request(self, owner: str, request_id: str) -> StoredRequest | None:
        """What a client's request id stands for."""
        await trio.lowlevel.checkpoint()
        stored = self.requests.get((owner, request_id))
        if stored is None:
            return None
        record = self.jobs.get(stored.job_id)
        return replace(stored, is_open=record is not None and not isinstance(record.state, Ended))

    async def settle(self) -> None:
        """Writes what was posted."""
        await trio.lowlevel.checkpoint()
        await trio.sleep(self.settle_seconds)
        self._write_posted()

    async def expired(self, retention: Retention) -> Sequence[tuple[JobId, str]]:
        """Those above the bounds on their number, the oldest of the client that has most first."""
        self.looks_for_expired += 1
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

    async def ended_outputs(self, after: int) -> Sequence[EndedOutput]:
        """All of them at once."""
        await trio.lowlevel.checkpoint()
        return [
            EndedOutput(
                key=key, job_id=record.id, owner=record.owner, ended_seq=key, is_pruned=record.output_pruned is not None
            )
            for key, record in enumerate(self.jobs.values(), 1)
            if key > after and isinstance(record.state, Ended)
        ]

    async def remove(self, job_ids: Sequence[JobId], *, given_up: bool = False) -> None:
        """Forgets jobs."""
        await trio.lowlevel.checkpoint()
        for job_id in job_ids:
            if given_up:
                self._release(job_id, None)
            if (record := self.jobs.pop(job_id, None)) is not None:
                self._note(job_id, record.owner, Removed())
                self.gone |= {job_id} if given_up else set()

    async def discarded(self, after: str = "") -> Sequence[JobId]:
        """Those of `gone` behind an id, two of them at most."""
        await trio.lowlevel.checkpoint()
        return sorted(job_id for job_id in self.gone if job_id > after)[:2]

    async def forget_discarded(self, job_ids: Sequence[JobId]) -> None:
        """The outputs of these are gone."""
        await trio.lowlevel.checkpoint()
        self.gone.difference_update(job_ids)

    async def page(self, query: JobQuery) -> Page:
        """The newest jobs that a query wants."""
        await trio.lowlevel.checkpoint()
        keys = {each.job_id: each.seq for each in self.happened if isinstance(each.event, Launched)}
        found = [
            StoredJob(key=keys[record.id], record=record)
            for record in sorted(self.jobs.values(), key=lambda record: -keys[record.id])
            if _is_wanted(record, keys[record.id], query)
        ]
        return Page(
            jobs=tuple(found[: query.limit]),
            next=found[query.limit - 1].key if len(found) > query.limit else None,
        )

    async def events(self, after: int, owner: str | None, limit: int) -> Events:
        """What happened after a sequence number, of jobs that are still there, and the removals of the others."""
        await trio.lowlevel.checkpoint()
        self.reads += 1
        found = tuple(
            each
            for each in self.happened
            if each.seq > after
            and (each.job_id in self.jobs or isinstance(each.event, Removed))
            and owner in {None, each.owner}
        )
        position = max(after, self.last_seq) if len(found) <= limit else found[limit - 1].seq
        return Events(
            events=found[:limit],
            position=position,
            horizon=max((seq for name, seq in self.horizon.items() if owner in {None, name}), default=0),
        )

    @property
    def last_seq(self) -> int:
        """The number of the last event."""
        return len(self.happened)

    @asynccontextmanager
    async def backup(self) -> AsyncIterator[int]:
        """A file that has the ids of all jobs."""
        with tempfile.TemporaryFile() as file:
            file.write("".join(self.jobs).encode())
            file.flush()
            await trio.lowlevel.checkpoint()
            yield file.fileno()

    async def wait_after(self, seq: int) -> None:
        """Returns when there are later events."""
        await trio.lowlevel.checkpoint()
        while self.last_seq <= seq:
            await self.grown.park()


def _is_wanted(record: JobRecord, key: int, query: JobQuery) -> bool:
    state = record.state
    is_of_kind = (
        query.causes is None or CAUSE_NAMES[type(state.cause)] in query.causes
        if isinstance(state, Ended)
        else query.with_open
    )
    return (
        is_of_kind
        and query.owner in {None, record.owner}
        and query.name in {"", record.name}
        and set(query.labels) <= set(record.labels)
        and (query.before is None or key < query.before)
        and (query.started_from is None or state.started_at >= query.started_from)
        and (query.started_before is None or state.started_at < query.started_before)
    )
