"""Events for those who watch, over records in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import EventsForgotten, ServerDraining
from jobmaster.job.cause import Exited
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import Launched, OomKillsCounted
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Finished
from jobmaster.journal.stored import EVENTS_CHARACTERS, JournalledEvent
from jobmaster.run import feed as feed_module
from jobmaster.run.feed import BATCH, KEPT, Feed, Watcher
from tests.run.records import MemoryRecords

ADMIN: Final = Watcher("superuser", None)
CLIENT1: Final = Watcher("client1", "client1")
NOW: Final = datetime(2026, 1, 2, tzinfo=UTC)


def launch(records: MemoryRecords, owner: str = "client1") -> JobId:
    """Has a job launched and executed: two events."""
    job_id = new_job_id()
    command = CommandLine.of(JobSpecification(command="true"))
    records.post(job_id, Launched(id=job_id, owner=owner, command=command, pid=1, start_time=1, boot_id="", at=NOW))
    records.post(job_id, Executed())
    return job_id


def end(records: MemoryRecords, job_id: JobId) -> None:
    """Has a job end."""
    records.post(job_id, Finished(cause=Exited(0), at=NOW, output_bytes=0, output_bytes_lost=0))


async def watch(feed: Feed, position: int, owner: str | None, seen: list[int]) -> None:
    """Notes the numbers of all events until the server ends."""
    horizon = await feed.begin(position, Watcher("watcher", owner))
    while True:
        try:
            news = await feed.after(position, Watcher("watcher", owner), horizon)
        except ServerDraining:
            return
        seen.extend(event.seq for event in news.events)
        position = news.position


@pytest.fixture
def records() -> MemoryRecords:
    """Records without a job."""
    return MemoryRecords()


async def test_each_watcher_sees_each_event_once(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """From wherever they begin, watchers see each later event of theirs once, in order, to the end of the server."""
    feed = Feed(records)
    first = launch(records)
    seen: dict[str, list[int]] = {"all": [], "client1": [], "client2": [], "later": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, feed, 0, None, seen["all"])
        nursery.start_soon(watch, feed, 0, "client1", seen["client1"])
        nursery.start_soon(watch, feed, 0, "client2", seen["client2"])
        await trio.sleep(1)
        launch(records, "client2")
        await trio.sleep(1)
        nursery.start_soon(watch, feed, 3, None, seen["later"])
        await trio.sleep(1)
        end(records, first)
        feed.end()
    assert seen == {"all": [1, 2, 3, 4, 5], "client1": [1, 2, 5], "client2": [3, 4], "later": [4, 5]}


async def test_many_watchers_are_one_reader(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """However many have caught up, what is new is read from the journal once."""
    feed = Feed(records)
    seen: list[list[int]] = [[] for _ in range(50)]
    async with trio.open_nursery() as nursery:
        for each in seen:
            nursery.start_soon(watch, feed, 0, None, each)
        await trio.sleep(1)
        before = records.reads
        launch(records)
        await trio.sleep(1)
        assert records.reads == before + 1
        feed.end()
    assert seen == [[1, 2]] * 50


async def test_the_reader_may_leave(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """When the one who waits for the journal leaves, another takes its place."""
    feed = Feed(records)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        leaving = trio.CancelScope()

        async def leave() -> None:
            with leaving:
                await watch(feed, 0, None, [])

        nursery.start_soon(leave)
        await wait_all_tasks_blocked()
        nursery.start_soon(watch, feed, 0, None, seen)
        await wait_all_tasks_blocked()
        leaving.cancel()
        await wait_all_tasks_blocked()
        launch(records)
        await trio.sleep(1)
        feed.end()
    assert seen == [1, 2]


async def test_a_slow_watcher_misses_nothing(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """Who falls further behind than memory reaches reads from the journal, and no event is lost or repeated."""
    feed = Feed(records)
    job_id = launch(records)
    fast: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, feed, 0, None, fast)
        await trio.sleep(1)
        slow = await feed.after(1, ADMIN)
        for count in range(3 * KEPT):
            records.post(job_id, OomKillsCounted(count=count))
            if count % BATCH == 0:
                await trio.sleep(1)
        await trio.sleep(1)
        seen = [event.seq for event in slow.events]
        position = slow.position
        while position < records.last_seq:
            slow = await feed.after(position, ADMIN)
            seen += [event.seq for event in slow.events]
            position = slow.position
        feed.end()
    assert fast == list(range(1, records.last_seq + 1))
    assert seen == fast[1:]
    assert slow.is_current


async def test_a_feed_that_nobody_used_for_long(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """A watcher who begins at the journal's end sees what comes next, whatever was seen before it."""
    feed = Feed(records)
    early: list[int] = []
    with trio.move_on_after(1):
        await watch(feed, 0, None, early)
    first = launch(records)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, feed, 2, None, seen)
        await trio.sleep(1)
        end(records, first)
        await trio.sleep(1)
        feed.end()
    assert (early, seen) == ([], [3])


@pytest.mark.parametrize(
    ("after", "words"), [(4, "no event has a number as high as 4"), (1, "only what happened after event 2")]
)
async def test_what_cannot_be_told(records: MemoryRecords, after: int, words: str) -> None:
    """A number below what is kept, or above all that was given, is refused with what to do."""
    end(records, launch(records))
    records.horizon = {"client1": 2}
    with pytest.raises(EventsForgotten, match=f"{words}.*atch anew"):
        await Feed(records).begin(after, ADMIN)


@pytest.mark.parametrize("after", [0, 2, 3])
async def test_what_can_be_told(records: MemoryRecords, after: int) -> None:
    """From the beginning, the horizon or the end on, all that is kept is told."""
    end(records, launch(records))
    records.horizon = {"client1": 2}
    await Feed(records).begin(after, ADMIN)


async def test_a_removed_job(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """Of a job that is forgotten, a watcher sees the removal and nothing else."""
    feed = Feed(records)
    gone = launch(records)
    end(records, gone)
    await records.remove([gone])
    events: list[JournalledEvent] = list((await feed.after(0, CLIENT1)).events)
    assert [(event.seq, event.job_id) for event in events] == [(4, gone)]


async def test_removals_that_a_slow_watcher_was_not_told_of(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """A watcher behind which removals are forgotten is told so, as one who begins there is; one before them is not."""
    feed = Feed(records)
    end(records, launch(records))
    horizon = await feed.begin(1, CLIENT1)
    records.horizon = {"client1": 2}
    with pytest.raises(EventsForgotten, match=r"only what happened after event 2"):
        await feed.after(1, CLIENT1, horizon)
    assert (await feed.after(0, CLIENT1, await feed.begin(0, CLIENT1))).events


@pytest.mark.parametrize("has_caught_up", [False, True])
async def test_an_answer_is_bounded(records: MemoryRecords, autojump_clock: MockClock, *, has_caught_up: bool) -> None:
    """An answer has no more than so many events, and large ones come alone, from the journal and from memory."""
    feed = Feed(records)
    if has_caught_up:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, feed, 0, None, [])
            await trio.sleep(1)
            for _ in range(BATCH):
                launch(records)
            await trio.sleep(1)
            feed.end()
    else:
        for _ in range(BATCH):
            launch(records)
    news = await feed.after(0, ADMIN)
    assert [event.seq for event in news.events] == list(range(1, BATCH + 1))
    assert (news.position, news.is_current) == (BATCH, False)


async def test_large_events_come_in_small_answers(records: MemoryRecords, autojump_clock: MockClock) -> None:
    """What a watcher has caught up with is told in pieces, each with at least one event."""
    feed = Feed(records)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, feed, 0, None, [])
        await trio.sleep(1)
        for _ in range(3):
            launch(records)
        records.happened = [replace(event, characters=EVENTS_CHARACTERS) for event in records.happened]
        await trio.sleep(1)
        feed.end()
    pieces = [(await feed.after(position, ADMIN)).position for position in range(5)]
    assert pieces == [1, 2, 3, 4, 5]


async def test_removals_that_the_slowest_watcher_of_all_was_not_told_of(
    records: MemoryRecords, autojump_clock: MockClock
) -> None:
    """Also who had seen everything, and came back after removals had been forgotten, is told so; another goes on."""
    feed = Feed(records)
    first, other = launch(records), launch(records, "client2")
    horizon = await feed.begin(1, CLIENT1)
    position = (await feed.after(1, CLIENT1, horizon)).position
    with trio.move_on_after(1):
        await feed.after(position, CLIENT1, horizon)
    assert position == records.last_seq == feed._position
    end(records, first)
    end(records, other)
    records.horizon = {"client1": records.last_seq}
    with pytest.raises(EventsForgotten):
        await feed.after(position, CLIENT1, horizon)
    news = await feed.after(position, Watcher("client2", "client2"), horizon)
    assert [event.job_id for event in news.events] == [other]


async def test_memory_has_no_gap(
    records: MemoryRecords, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened while nobody watched is read from the journal, though memory has what was before it and after it."""
    monkeypatch.setattr(feed_module, "KEPT", 4)
    feed = Feed(records)
    launch(records)
    launch(records)
    await feed.after(0, ADMIN)
    launch(records)
    launch(records)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.after, 8, ADMIN)
        await trio.sleep(1)
        launch(records)
    assert [event.seq for event in (await feed.after(4, ADMIN)).events] == [5, 6, 7, 8, 9, 10]


async def test_memory_hides_no_removals(
    records: MemoryRecords, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was not told of removals learns that, though memory has what was before them and after them."""
    monkeypatch.setattr(feed_module, "KEPT", 4)
    feed = Feed(records)
    first, _ = launch(records), launch(records)
    await feed.after(0, ADMIN)
    end(records, first)
    records.horizon = {"client1": records.last_seq}
    with pytest.raises(EventsForgotten):
        await feed.after(4, ADMIN)
    launch(records)
    assert [event.seq for event in (await feed.after(5, ADMIN)).events] == [6, 7]
    with pytest.raises(EventsForgotten):
        await feed.after(4, ADMIN)
