"""What a registry tells of all jobs: their list, and what happens to them."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from jobmaster.errors import CommandNotRunnable, PermissionRefused, ServerDraining
from jobmaster.identity.policy import Identity
from jobmaster.job.cause import Stopped
from jobmaster.job.record import Launched
from jobmaster.job.state import Ended, Running
from jobmaster.journal.stored import Events, JobQuery, JournalledEvent, Page, Removed
from jobmaster.run.history import History
from jobmaster.run.registry import Registry
from jobmaster.run.turns import OF_CLIENT
from tests.run.conftest import Machine
from tests.run.identities import ADMIN, CLIENT1, CLIENT2
from tests.run.records import MemoryRecords
from tests.run.scripted import Script

T = TypeVar("T")

DEAF = Script(on_term=None)


async def listed(registry: Registry, caller: Identity, query: JobQuery | None = None) -> list[str]:
    """The ids of the jobs of one page."""
    return [job.record.id for job in (await registry.history.page(caller, query or JobQuery())).jobs]


async def test_a_user_lists_its_own(machine: Machine) -> None:
    """A user's list has its own jobs, an admin's all or one client's; another's is refused to a user."""
    async with machine.registry() as registry:
        first, second, third = [await machine.start(registry, each) for each in (CLIENT1, CLIENT2, CLIENT1)]
        assert await listed(registry, CLIENT1) == await listed(registry, CLIENT1, JobQuery(owner="client1"))
        assert await listed(registry, CLIENT1) == [third, first]
        assert await listed(registry, ADMIN) == [third, second, first]
        assert await listed(registry, ADMIN, JobQuery(owner="client2")) == [second]
        with pytest.raises(PermissionRefused, match="leave client empty"):
            await registry.history.page(CLIENT1, JobQuery(owner="client2"))


class SlowRecords(MemoryRecords):
    """Records that take a second to answer, and count who asks."""

    most_at_once = 0
    at_once = 0

    async def page(self, query: JobQuery) -> Page:
        """A page."""
        return await self._slowly(MemoryRecords.page(self, query))

    async def events(self, after: int, owner: str | None, limit: int) -> Events:
        """Events."""
        return await self._slowly(MemoryRecords.events(self, after, owner, limit))

    async def _slowly(self, answer: Awaitable[T]) -> T:
        SlowRecords.at_once += 1
        SlowRecords.most_at_once = max(SlowRecords.most_at_once, SlowRecords.at_once)
        await trio.sleep(1)
        SlowRecords.at_once -= 1
        return await answer


@pytest.mark.parametrize("caller", [CLIENT1, ADMIN])
async def test_one_client_asks_a_few_questions_at_a_time(autojump_clock: MockClock, caller: Identity) -> None:
    """Pages and events that a client asks for wait for each other; another client's come at once."""
    SlowRecords.most_at_once = SlowRecords.at_once = 0
    history = History(SlowRecords(), lambda record: record)
    other_waited = 0.0

    async def ask(client: Identity) -> None:
        async with history.turn(client):
            await history.page(client, JobQuery())

    async def watch() -> None:
        async with aclosing(history.events(caller, 0)) as news:
            await anext(news)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask, caller)
            nursery.start_soon(watch)
        await trio.sleep(0.5)
        began = trio.current_time()
        await ask(CLIENT2)
        other_waited = trio.current_time() - began
    assert SlowRecords.most_at_once == OF_CLIENT + 1
    assert other_waited == 1


async def test_pages_stay_right_while_jobs_arrive(machine: Machine) -> None:
    """The next page goes on where the last one ended, whatever was started meanwhile."""
    async with machine.registry() as registry:
        jobs = [await machine.start(registry, CLIENT1) for _ in range(5)]
        page = await registry.history.page(CLIENT1, JobQuery(limit=2))
        assert [job.record.id for job in page.jobs] == jobs[:2:-1]
        await machine.start(registry, CLIENT1)
        page = await registry.history.page(CLIENT1, JobQuery(limit=2, before=page.next))
        assert [job.record.id for job in page.jobs] == jobs[2:0:-1]
        page = await registry.history.page(CLIENT1, JobQuery(limit=2, before=page.next))
        assert ([job.record.id for job in page.jobs], page.next) == (jobs[:1], None)


async def test_a_list_tells_what_is_now(machine: Machine) -> None:
    """Of a job that runs, the list has what the job is now, which the journal need not have yet."""
    async with machine.registry() as registry:
        await machine.start(registry, CLIENT1, Script(writes=((0.5, 10),)))
        await trio.sleep(1)
        (job,) = (await registry.history.page(CLIENT1, JobQuery())).jobs
        assert isinstance(job.record.state, Running)
        assert job.record.output_bytes == 10


async def test_what_nobody_was_told_of_is_in_no_list(machine: Machine) -> None:
    """A job that is not executed yet, or that its caller gave up, is in no list."""
    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.start, registry, CLIENT1, Script(execute_seconds=5))
            await trio.sleep(1)
            assert machine.records.jobs
            assert await listed(registry, ADMIN) == []
            nursery.cancel_scope.cancel()
        assert await listed(registry, ADMIN) == []


async def test_filters(machine: Machine) -> None:
    """A list has those of the wanted states and causes alone."""
    async with machine.registry() as registry:
        ended = await machine.start(registry, CLIENT1, Script(ends_at=1))
        running = await machine.start(registry, CLIENT1)
        stopped = await machine.start(registry, CLIENT1)
        await registry.stop(CLIENT1, stopped)
        await trio.sleep(2)
        assert await listed(registry, ADMIN, JobQuery(causes=())) == [running]
        assert await listed(registry, ADMIN, JobQuery(with_open=False)) == [stopped, ended]
        assert await listed(registry, ADMIN, JobQuery(causes=("stopped",))) == [stopped, running]


async def test_a_user_watches_its_own(machine: Machine) -> None:
    """A user hears of its own jobs alone, from the first event to the end of the server."""
    async with machine.registry() as registry:
        await machine.start(registry, CLIENT2, Script(ends_at=1))
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await trio.sleep(2)
        registry.history.end()
        seen: list[JournalledEvent] = []
        async with aclosing(registry.history.events(CLIENT1, 0)) as watch:
            with suppress(ServerDraining):
                async for news in watch:
                    seen += news.events
    assert {event.job_id for event in seen} == {job_id}
    assert [type(event.event).__name__ for event in seen] == ["Launched", "Executed", "MainProcessDied", "Finished"]


async def test_watching_from_now_on(machine: Machine) -> None:
    """Who begins now learns at once where that is, and then hears of what comes."""
    async with machine.registry() as registry:
        await machine.start(registry, CLIENT1)
        async with aclosing(registry.history.events(ADMIN, None)) as watch:
            begin = await anext(watch)
            assert (begin.events, begin.position, begin.is_current) == ((), machine.records.last_seq, True)
            job_id = await machine.start(registry, CLIENT2)
            news = await anext(watch)
            assert {event.job_id for event in news.events} == {job_id}


async def test_a_job_that_is_never_executed(machine: Machine) -> None:
    """A watcher hears of its launch, and that it was removed."""
    async with machine.registry() as registry, aclosing(registry.history.events(ADMIN, None)) as watch:
        await anext(watch)
        script = Script(execute_seconds=1, execute_error=CommandNotRunnable("not found"))
        with pytest.raises(CommandNotRunnable):
            await machine.start(registry, CLIENT1, script)
        seen: list[JournalledEvent] = []
        while not any(isinstance(event.event, Removed) for event in seen):
            seen += (await anext(watch)).events
    assert [type(event.event) for event in seen] in ([Launched, Removed], [Removed])


async def test_a_forced_stop(machine: Machine) -> None:
    """A stop by force has no grace period, and keeps its reason."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, DEAF)
        before = trio.current_time()
        record = await registry.stop(CLIENT1, job_id, "enough", force=True)
        assert trio.current_time() - before < 1
        assert isinstance(record.state, Ended)
        cause = record.state.cause
        assert isinstance(cause, Stopped)
        assert (cause.reason, cause.killed) == ("enough", True)


async def test_force_ends_a_grace_period(machine: Machine) -> None:
    """A stop by force ends the grace period of one that waits, whose reason and caller stay."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, DEAF)
        nursery.start_soon(registry.stop, CLIENT1, job_id, "first")
        await trio.sleep(1)
        record = await registry.stop(ADMIN, job_id, "second", force=True)
        assert isinstance(record.state, Ended)
        cause = record.state.cause
        assert isinstance(cause, Stopped)
        assert (cause.by, cause.reason) == ("client1", "first")


async def test_a_backup_is_for_admins(machine: Machine) -> None:
    """An admin gets all of it in pieces; a user is refused before anything is copied."""
    async with machine.registry() as registry:
        jobs = [await machine.start(registry, CLIENT1) for _ in range(3)]
        assert b"".join([data async for data in registry.history.backup(ADMIN)]) == "".join(jobs).encode()
        with pytest.raises(PermissionRefused, match="only an admin"):
            await anext(registry.history.backup(CLIENT1))
