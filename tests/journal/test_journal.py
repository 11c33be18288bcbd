"""The journal in an event loop: what is acknowledged is there, and what is withdrawn is not."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import Exited
from jobmaster.job.record import Launched, OomKillsCounted, OutputLost, OutputPruned
from jobmaster.job.request import RequestError
from jobmaster.job.state import Executed, InvalidTransition, MainProcessDied, StopSignalled
from jobmaster.journal import journal as journal_module
from jobmaster.journal import writer, writing
from jobmaster.journal.connection import JournalFault
from jobmaster.journal.database import Database
from jobmaster.journal.journal import Journal, open_journal
from jobmaster.journal.stored import Entry, JobQuery, Removed, Retention, UnknownJob, Written
from tests.journal.jobs import (
    NEVER_EXECUTED,
    NOON,
    RETURNED,
    STOPPED,
    database_in,
    finished,
    job_id,
    key,
    launched,
    record_after,
    records,
)

WRITE: Final = Database.write


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """A new journal."""
    async with open_journal(tmp_path / "journal.db") as opened:
        yield opened


class Disk:
    """Stalls every write of a database while it is frozen."""

    def __init__(self) -> None:
        self._stalled = threading.Semaphore(0)
        self._works = threading.Event()
        self._works.set()
        self.sizes: list[int] = []
        """Of what was written at once."""

    def write(self, database: Database, batch: list[Entry]) -> list[Written]:
        """In place of `Database.write`."""
        if not self._works.is_set():
            self._stalled.release()
            self._works.wait(60)
        self.sizes.append(len(batch))
        return WRITE(database, batch)

    def freeze(self) -> None:
        """From now on, writes stall."""
        self._works.clear()

    def thaw(self) -> None:
        """They go on."""
        self._works.set()

    async def stall(self, journal: Journal) -> Launched:
        """Freezes; returns when the journal is about to write the first event of this job."""
        self.freeze()
        first = launched()
        journal.post(first.id, first)
        await self.has_stalled()
        return first

    async def has_stalled(self) -> None:
        """Returns when one more write has stalled."""
        await trio.to_thread.run_sync(self._stalled.acquire, True, 60)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of all journals of this test."""
    disk = Disk()
    monkeypatch.setattr(Database, "write", lambda database, batch: disk.write(database, batch))
    yield disk
    disk.thaw()


# --- recording --------------------------------------------------------------------------------------------------------


async def test_a_life_is_recorded(tmp_path: Path) -> None:
    """What is recorded can be read at once, and by the next server."""
    first = launched()
    async with open_journal(tmp_path / "journal.db") as journal:
        for seq, event in enumerate([first, *STOPPED], start=1):
            assert await journal.record(first.id, event) == seq
        stored = await journal.find(first.id)
        assert stored is not None
        assert stored.record == record_after(first, *STOPPED)
        assert (journal.last_seq, journal.is_writable, journal.unwritten) == (8, True, [])
    async with open_journal(tmp_path / "journal.db") as journal:
        assert (await journal.page(JobQuery())).jobs == (stored,)
        assert await journal.open_jobs() == []


async def test_posts_are_written_in_their_order(journal: Journal) -> None:
    """What is recorded after what was posted is written after it."""
    first = launched()
    journal.post(first.id, first)
    for event in STOPPED[:-1]:
        journal.post(first.id, event)
    assert await journal.record(first.id, STOPPED[-1]) == 8
    assert [event.event for event in (await journal.events(0)).events] == [first, *STOPPED]


async def test_what_nobody_waits_for_is_written_with_what_somebody_does(
    journal: Journal, disk: Disk, mock_clock: MockClock
) -> None:
    """It is one transaction; where nobody waits, what has gathered is written a moment later."""
    first = launched()
    await journal.record(first.id, first)
    for event in STOPPED[:2]:
        journal.post(first.id, event)
        await wait_all_tasks_blocked()
    await journal.record(first.id, STOPPED[2])
    for event in STOPPED[3:]:
        journal.post(first.id, event)
        await wait_all_tasks_blocked()
    mock_clock.jump(writer.GATHER_SECONDS)
    await journal.wait_after(len(STOPPED))
    assert disk.sizes == [1, 3, len(STOPPED) - 3]


async def test_who_settles_does_not_wait_for_more_to_gather(journal: Journal, mock_clock: MockClock) -> None:
    """What was given until then is written at once."""
    first = launched()
    await journal.record(first.id, first)
    journal.post(first.id, Executed())
    await journal.settle()
    assert (journal.last_seq, mock_clock.current_time()) == (2, 0.0)


async def test_many_at_once(journal: Journal) -> None:
    """Each of many who wait gets its own number, and gaps are nowhere."""
    numbers: list[int] = []

    async def live() -> None:
        first = launched()
        numbers.extend([await journal.record(first.id, event) for event in (first, *RETURNED)])

    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(live)
    assert sorted(numbers) == list(range(1, 1_201))


async def test_an_event_that_cannot_be(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """It is an error to who records it, and a line in the log for one that was posted; nothing else is touched."""
    first = launched()
    await journal.record(first.id, first)
    with pytest.raises(InvalidTransition):
        await journal.record(first.id, StopSignalled())
    with pytest.raises(UnknownJob):
        await journal.record(job_id(1), Executed())
    with pytest.raises(ValueError, match="no event of"):
        await journal.record(job_id(1), first)
    journal.post(first.id, StopSignalled())
    assert await journal.record(first.id, Executed()) == 2
    assert "StopSignalled cannot happen" in caplog.text


async def test_what_was_never_executed(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """It leaves its error for its request id; a second such end, and that of a job never launched, say nothing."""
    first, error = launched(request=key("r")), RequestError(kind="command_not_runnable", text="not found")
    await journal.record(first.id, first)
    journal.post(first.id, NEVER_EXECUTED, error)
    journal.post(first.id, NEVER_EXECUTED)
    journal.post(job_id(1), NEVER_EXECUTED)
    await journal.wait_after(1)
    request = await journal.request("client1", "r")
    assert request is not None
    assert (request.job_id, request.error) == (first.id, error)
    assert await journal.find(first.id) is None
    assert caplog.records == []


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_in_the_queue(tmp_path: Path, disk: Disk) -> None:
    """Its launch is withdrawn and never written; what is behind it is."""
    gone, stays = launched(), launched()
    async with open_journal(tmp_path / "journal.db") as journal, trio.open_nursery() as nursery:
        written = await disk.stall(journal)
        nursery.start_soon(journal.record, gone.id, gone)
        await wait_all_tasks_blocked()
        journal.post(stays.id, stays)
        nursery.cancel_scope.cancel()
        nursery.start_soon(thaw_when_blocked, disk)
    database = database_in(tmp_path)
    assert records(database) == [record_after(stays), record_after(written)]
    database.close()


async def test_what_has_happened_is_not_withdrawn(tmp_path: Path, disk: Disk) -> None:
    """Who leaves does not take it along, not even who was cancelled before: it is written in its turn, once."""
    async with open_journal(tmp_path / "journal.db") as journal, trio.open_nursery() as nursery:
        first = await disk.stall(journal)
        nursery.start_soon(journal.record, first.id, Executed())
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.record(first.id, MainProcessDied(death=Exited(0)))
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
        assert set(journal.unwritten) == {first.id}
        nursery.start_soon(thaw_when_blocked, disk)
    database = database_in(tmp_path)
    assert [event.event for event in database.events(0).events] == [first, *RETURNED[:2]]
    database.close()


async def thaw_when_blocked(disk: Disk) -> None:
    """Lets the disk go on when nothing else happens any more."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
        disk.thaw()


async def test_a_caller_that_leaves_too_late(journal: Journal, disk: Disk) -> None:
    """Its event is being written: it gets the number, and is cancelled at its next checkpoint."""
    first = launched()
    disk.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_stalled, disk, nursery.cancel_scope)
        assert await journal.record(first.id, first) == 1
        assert nursery.cancel_scope.cancel_called
    assert (await journal.find(first.id)) is not None


async def cancel_when_stalled(disk: Disk, scope: trio.CancelScope) -> None:
    """Cancels who records while the write is under way, and lets it go on."""
    await disk.has_stalled()
    scope.cancel()
    await thaw_when_blocked(disk)


async def test_counts_take_one_place(journal: Journal, disk: Disk) -> None:
    """However often a job counts while the disk stalls, no other's events are refused, and the last count is written."""
    first = await disk.stall(journal)
    for count in range(1, writer.MAX_QUEUED + 2):
        journal.post(first.id, OomKillsCounted(count=count))
        journal.post(first.id, OutputLost(count=count))
    journal.post(first.id, Executed())
    disk.thaw()
    await journal.settle()
    stored = await journal.find(first.id)
    assert stored is not None
    assert (stored.record.oom_kills, stored.record.output_bytes_lost) == (writer.MAX_QUEUED + 1,) * 2
    assert journal.last_seq == 4


async def test_settling_when_the_last_event_is_withdrawn(journal: Journal, disk: Disk) -> None:
    """Who waits for all that was given until now waits for what was given before that one."""
    posted, gone, has_settled = launched(), launched(), trio.Event()

    async def settle() -> None:
        await journal.settle()
        has_settled.set()

    await disk.stall(journal)
    journal.post(posted.id, posted)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as launching:
            launching.start_soon(journal.record, gone.id, gone)
            await wait_all_tasks_blocked()
            nursery.start_soon(settle)
            await wait_all_tasks_blocked()
            launching.cancel_scope.cancel()
        disk.thaw()
        disk.freeze()
        await disk.has_stalled()
        await wait_all_tasks_blocked()
        assert not has_settled.is_set()
        disk.thaw()
    assert journal.last_seq == 2


async def test_a_caller_that_is_cancelled_already(journal: Journal) -> None:
    """It records nothing."""
    first = launched()
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.record(first.id, first)
    assert scope.cancelled_caught
    assert (await journal.page(JobQuery())).jobs == ()


async def test_a_cancelled_server(tmp_path: Path, disk: Disk) -> None:
    """Being cancelled does not end the journal before all is written that was given to it."""
    first = launched()
    with trio.CancelScope() as scope:
        async with open_journal(tmp_path / "journal.db") as journal, trio.open_nursery() as nursery:
            await disk.stall(journal)
            journal.post(first.id, first)
            scope.cancel()
            nursery.start_soon(thaw_when_blocked, disk)
            with trio.CancelScope(shield=True):
                assert await journal.record(first.id, Executed()) == 3
    database = database_in(tmp_path)
    assert len(records(database)) == 2
    database.close()


# --- deadlines and bounds ---------------------------------------------------------------------------------------------


async def test_a_disk_that_does_not_answer(tmp_path: Path, disk: Disk, mock_clock: MockClock) -> None:
    """Who launches is told in time, and that it may be written all the same; what has happened is waited for."""
    first, second = launched(), launched(request=key("r"))
    async with open_journal(tmp_path / "journal.db") as journal:
        await journal.record(first.id, first)
        disk.freeze()
        async with trio.open_nursery() as happening:
            async with trio.open_nursery() as launching:
                launching.start_soon(is_doubted, journal, second)
                await disk.has_stalled()
                happening.start_soon(journal.record, first.id, Executed())
                await wait_all_tasks_blocked()
                mock_clock.jump(writer.DURABLE_SECONDS)
            assert happening.child_tasks, "what has happened is recorded, however long that takes"
            journal.post(second.id, NEVER_EXECUTED)
            disk.thaw()
        await journal.wait_after(3)
        assert await journal.find(second.id) is None
        assert await journal.request("client1", "r") is None
        stored = await journal.find(first.id)
        assert stored is not None
        assert stored.record == record_after(first, Executed())


async def is_refused(journal: Journal, launch: Launched, *, is_doubtful: bool = False) -> None:
    """Records a launch in vain."""
    with pytest.raises(JournalUnavailable, match="its disk does not answer; try again later") as raised:
        await journal.record(launch.id, launch)
    assert raised.value.is_doubtful == is_doubtful


async def is_doubted(journal: Journal, launch: Launched) -> None:
    """Records a launch that may become durable all the same."""
    await is_refused(journal, launch, is_doubtful=True)


@pytest.mark.parametrize(
    ("fault", "is_doubtful"),
    [
        (JournalFault("full", words="its disk is full", lacks_space=True), False),
        (JournalFault("sync", words="its disk fails", is_doubtful=True), True),
    ],
)
async def test_a_launch_in_doubt(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, fault: JournalFault, is_doubtful: bool
) -> None:
    """Who launches is told whether the launch may be durable all the same: after an error of fsync, not on a full disk."""

    def fail(_: Database, __: list[Entry]) -> NoReturn:
        raise fault

    monkeypatch.setattr(Database, "write", fail)
    launch = launched()
    with pytest.raises(JournalUnavailable) as raised:
        await journal.record(launch.id, launch)
    assert raised.value.is_doubtful == is_doubtful


async def test_a_launch_that_waits_too_long(tmp_path: Path, disk: Disk, mock_clock: MockClock) -> None:
    """One that was not even taken is withdrawn."""
    late = launched()
    async with open_journal(tmp_path / "journal.db") as journal:
        await disk.stall(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(is_refused, journal, late)
            await wait_all_tasks_blocked()
            mock_clock.jump(writer.DURABLE_SECONDS)
        disk.thaw()
    database = database_in(tmp_path)
    assert database.find(late.id) is None
    database.close()


async def test_a_frozen_disk_at_the_end(
    tmp_path: Path, disk: Disk, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal's end waits for so long and no longer, and names the jobs of which something is not written."""
    waiting = launched()
    async with trio.open_nursery() as nursery, open_journal(tmp_path / "journal.db") as journal:
        first = await disk.stall(journal)
        journal.post(waiting.id, waiting)
        nursery.start_soon(jump_when_blocked, mock_clock, writer.CLOSE_SECONDS, journal_module.CLOSE_SECONDS)
    assert journal.unwritten == [first.id, waiting.id]
    assert waiting.id in caplog.text
    with pytest.raises(JournalUnavailable, match="shutting down"):
        journal.post(waiting.id, waiting)
    with pytest.raises(JournalUnavailable, match="shutting down"):
        await journal.wait_after(100)
    disk.thaw()


async def jump_when_blocked(clock: MockClock, *seconds: float) -> None:
    """Lets time pass whenever nothing else happens."""
    for each in seconds:
        await wait_all_tasks_blocked()
        clock.jump(each)


async def test_nothing_is_kept_of_launches_that_were_never_taken(
    journal: Journal, disk: Disk, mock_clock: MockClock
) -> None:
    """However many launches a stalled disk refuses in time, nothing of them is kept."""
    await disk.stall(journal)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(is_refused, journal, launched())
        await wait_all_tasks_blocked()
        mock_clock.jump(writer.DURABLE_SECONDS)
    assert len(journal._writer._queue) == 0
    disk.thaw()


async def test_the_queue_is_bounded(journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches that do not fit are refused; what happens to jobs that are there is taken and written."""
    monkeypatch.setattr(writer, "MAX_QUEUED", 3)
    first, second = await disk.stall(journal), launched()
    journal.post(first.id, Executed())
    journal.post(first.id, MainProcessDied(death=Exited(0)))
    with pytest.raises(JournalUnavailable, match="too many events"):
        await journal.record(second.id, second)
    journal.post(first.id, finished())
    disk.thaw()
    await journal.wait_after(3)
    assert await journal.record(second.id, second) == 5


async def test_a_reader_of_a_disk_that_does_not_answer(
    journal: Journal, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in time."""
    answer = threading.Event()
    monkeypatch.setattr(Database, "page", lambda *_: answer.wait(60))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_blocked, mock_clock, journal_module.READ_SECONDS)
        with pytest.raises(JournalUnavailable, match="cannot be read: its disk does not answer"):
            await journal.page(JobQuery())
    answer.set()


# --- growth and pruning -----------------------------------------------------------------------------------------------


async def test_growth(journal: Journal) -> None:
    """Who waits for what comes after a number is told of it, and of what is there already at once."""
    first = launched()
    seen: list[object] = []

    async def follow() -> None:
        position = 0
        while len(seen) < 4:
            await journal.wait_after(position)
            events = await journal.events(position)
            seen.extend(event.event for event in events.events)
            position = events.position

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for event in (first, *RETURNED):
            await journal.record(first.id, event)
    assert seen == [first, *RETURNED]


async def test_pruning(journal: Journal) -> None:
    """What is too much is removed, in pieces, and those who follow the events are told."""
    jobs = [launched() for _ in range(120)]
    for job in jobs:
        for event in (job, *RETURNED):
            journal.post(job.id, event)
    await journal.wait_after(479)
    retention = Retention(ended=10, ended_of_client=10)
    while gone := await journal.expired(retention):
        await journal.remove([job_id for job_id, _ in gone])
    page = await journal.page(JobQuery())
    assert [job.record.id for job in page.jobs] == [job.id for job in reversed(jobs[-10:])]
    events = await journal.events(480, limit=1_000)
    assert [event.event for event in events.events] == [Removed()] * 110
    await journal.remove([job.id for job in jobs])
    assert (await journal.page(JobQuery())).jobs == ()


async def test_an_output_that_is_removed_to_make_room(journal: Journal) -> None:
    """The record says so; the job is as old as its end, and whose output is there is told in the order of the ends."""
    first, second, third = (launched() for _ in range(3))
    for job in (second, first, third):
        for event in (job, *RETURNED[: -1 if job is third else None]):
            await journal.record(job.id, event)
    pruned = OutputPruned(at=NOON, reason='"output_pruned":{')
    await journal.record(second.id, pruned)
    stored = await journal.find(second.id)
    assert stored is not None
    assert stored.record.output_pruned == pruned
    outputs = await journal.ended_outputs(0)
    assert [(each.job_id, each.owner, each.is_pruned) for each in outputs] == [
        (second.id, "client1", True),
        (first.id, "client1", False),
    ]
    assert outputs[0].ended_seq < outputs[1].ended_seq
    assert await journal.ended_outputs(outputs[0].key) == outputs[1:]
    assert await journal.expired(Retention(ended=1, ended_of_client=1)) == [(second.id, "client1")]


async def test_the_many_jobs_of_one_client_cost_another_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of removed jobs is forgotten of the client that has most; others know their own further on."""
    monkeypatch.setattr(writing, "MAX_REMOVALS", 10)
    monkeypatch.setattr(writing, "MAX_FREED_REQUESTS", 10)
    async with open_journal(tmp_path / "journal.db") as journal:
        mine = launched("client2", request=key("r0"))
        for job in (mine, *(launched(request=key(f"r{number}")) for number in range(30))):
            for event in (job, *RETURNED):
                await journal.record(job.id, event)
            await journal.remove([job.id])
        monkeypatch.setattr(journal, "_purge_after", 0.0)
        await journal.remove([])
        assert (await journal.events(3, "client2")).horizon == 0
        assert [event.job_id for event in (await journal.events(3, "client2")).events] == [mine.id]
        horizon = (await journal.events(3, "client1")).horizon
        assert horizon == (await journal.events(3)).horizon > 0
        assert await journal.request("client2", "r0") is not None
        assert await journal.request("client1", "r20") is None
        assert await journal.request("client1", "r29") is not None


async def test_what_is_remembered_of_removed_jobs_is_bounded(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removals and request ids are forgotten beyond a number, and request ids after a day."""
    monkeypatch.setattr(writing, "MAX_REMOVALS", 2)
    monkeypatch.setattr(writing, "MAX_FREED_REQUESTS", 3)
    async with open_journal(tmp_path / "journal.db") as journal:
        jobs = [launched(request=key(f"r{number}")) for number in range(5)]
        for job in jobs:
            for event in (job, *RETURNED):
                journal.post(job.id, event)
        await journal.wait_after(19)
        await journal.remove([job.id for job in jobs])
        events = await journal.events(0)
        assert [event.seq for event in events.events] == [24, 25]
        assert events.horizon == 23
        assert await known_requests(journal) == ["r2", "r3", "r4"]
        monkeypatch.setattr(writing, "REQUEST_RETENTION", timedelta(0))
        mock_clock.jump(journal_module.PURGE_SECONDS)
        await journal.remove([])
        assert await known_requests(journal) == []
        last = journal.last_seq
    async with open_journal(tmp_path / "journal.db") as journal:
        assert journal.last_seq == last


async def known_requests(journal: Journal) -> list[str]:
    """The request ids that stand for something."""
    names = [f"r{number}" for number in range(5)]
    return [name for name in names if await journal.request("client1", name) is not None]
