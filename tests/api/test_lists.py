"""Pages of List and messages of Watch, over a registry that has what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, cast

import pytest
import trio

from jobmaster.api.followers import Followers
from jobmaster.api.jobs import LIST_BYTES, POSITION_EVERY, JobService
from jobmaster.errors import InvalidRequest
from jobmaster.identity.policy import Identity, Role
from jobmaster.job.identifier import new_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Running
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import JobQuery, JournalledEvent, Page, StoredJob
from jobmaster.run.feed import News
from jobmaster.run.registry import Registry

CALLER: Final = Identity(name="client1", role=Role.USER)
LAUNCH: Final = datetime(2026, 1, 2, tzinfo=UTC)


def stored(key: int, argument: str = "") -> StoredJob:
    """A job of the journal that runs."""
    command = CommandLine.of(JobSpecification(command="true", args=(argument,)))
    state = Running(pid=1, started_at=LAUNCH)
    return StoredJob(key=key, record=JobRecord(id=new_job_id(), owner="client1", command=command, state=state))


class ScriptedHistory:
    """A registry that has these jobs, and in whose journal this happens."""

    def __init__(self, *, jobs: Sequence[StoredJob] = (), news: Sequence[News] = ()) -> None:
        self.history = self
        self.begun_after: int | None = -1
        self._jobs = jobs
        self._news = news

    @asynccontextmanager
    async def turn(self, _caller: Identity) -> AsyncIterator[None]:
        """As `History.turn`."""
        await trio.lowlevel.checkpoint()
        yield

    async def page(self, _caller: Identity, query: JobQuery) -> Page:
        """As `History.page`."""
        found = [job for job in self._jobs if query.before is None or job.key < query.before]
        more = len(found) > query.limit
        return Page(jobs=tuple(found[: query.limit]), next=found[query.limit - 1].key if more else None)

    async def events(self, _caller: Identity, after: int | None) -> AsyncIterator[News]:
        """As `History.events`."""
        self.begun_after = after
        for each in self._news:
            yield each


def service_of(registry: ScriptedHistory) -> JobService:
    """The service over it."""
    return JobService(cast(Registry, registry), Followers())


async def pages(registry: ScriptedHistory, size: int) -> list[pb.ListResponse]:
    """All pages of a list."""
    found = [await service_of(registry).List(pb.ListRequest(page_size=size), CALLER)]
    while found[-1].next_page_token:
        request = pb.ListRequest(page_size=size, page_token=found[-1].next_page_token)
        found.append(await service_of(registry).List(request, CALLER))
    return found


@pytest.mark.parametrize("size", [1, 3, 7, 10, 1000])
async def test_pages_have_each_job_once(size: int) -> None:
    """Page after page, by the tokens that they give, each job comes once, the newest first."""
    jobs = [stored(key) for key in range(10, 0, -1)]
    found = await pages(ScriptedHistory(jobs=jobs), size)
    assert [job.job_id_response.job_id for page in found for job in page.jobs] == [job.record.id for job in jobs]
    assert all(len(page.jobs) <= size for page in found)


async def test_pages_of_long_commands() -> None:
    """A page is no larger than a client takes, whatever size was asked for, and nothing is left out."""
    jobs = [stored(key, "x" * 16_000) for key in range(300, 0, -1)]
    found = await pages(ScriptedHistory(jobs=jobs), 1000)
    assert [job.job_id_response.job_id for page in found for job in page.jobs] == [job.record.id for job in jobs]
    assert max(page.ByteSize() for page in found) < 2 * LIST_BYTES
    assert len(found) > 3


async def test_a_page_without_jobs() -> None:
    """Where there are none, the page is empty and the last."""
    assert await pages(ScriptedHistory(), 5) == [pb.ListResponse()]


def happened(seq: int) -> JournalledEvent:
    """An event."""
    return JournalledEvent(seq=seq, at=LAUNCH, job_id=new_job_id(), owner="client1", event=Executed())


def news(position: int, *seqs: int, is_current: bool = True) -> News:
    """What has happened until then."""
    return News(events=tuple(map(happened, seqs)), position=position, is_current=is_current)


async def watched(registry: ScriptedHistory, request: pb.WatchRequest) -> list[tuple[int, bool]]:
    """The numbers that a watcher is told, each with whether it is that of an event."""
    watch = service_of(registry).Watch(request, CALLER)
    return [(message.seq, message.WhichOneof("kind") is not None) async for message in watch]


@pytest.mark.parametrize(
    ("request_", "after"),
    [(pb.WatchRequest(), 0), (pb.WatchRequest(after=7), 7), (pb.WatchRequest(only_new=True), None)],
)
async def test_where_a_watch_begins(request_: pb.WatchRequest, after: int | None) -> None:
    """After a number, with the first event that is kept, or with the next one."""
    registry = ScriptedHistory()
    await watched(registry, request_)
    assert registry.begun_after == after


async def test_a_watch_that_begins_twice() -> None:
    """Two beginnings exclude each other."""
    with pytest.raises(InvalidRequest, match="exclude each other"):
        await watched(ScriptedHistory(), pb.WatchRequest(after=1, only_new=True))


async def test_a_watcher_is_told_when_it_has_caught_up() -> None:
    """Once, when everything has been told, the position is told, too."""
    registry = ScriptedHistory(news=[news(3, 1, 3, is_current=False), news(5, 5), news(6, 6), news(9)])
    assert await watched(registry, pb.WatchRequest()) == [(1, True), (3, True), (5, True), (5, False), (6, True)]


async def test_a_watcher_is_told_how_far_others_events_go() -> None:
    """Where only others' jobs have events, a watcher is told its position now and then."""
    steps = [news(position) for position in range(100, 100 + 3 * POSITION_EVERY, 100)]
    told = await watched(ScriptedHistory(news=steps), pb.WatchRequest())
    assert told == [(100, False), (100 + POSITION_EVERY, False), (100 + 2 * POSITION_EVERY, False)]
