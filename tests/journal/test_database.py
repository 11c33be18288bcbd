"""What is written to the database is what is read from it, in this process and in the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import apsw
import pytest

from jobmaster.job.cause import Exited, ServerLost, Signalled
from jobmaster.job.identifier import JobId
from jobmaster.job.record import Launched
from jobmaster.job.request import RequestError
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Finished, InvalidTransition, MainProcessDied, StopSignalled
from jobmaster.journal.database import REMOVED_AT_ONCE, Database
from jobmaster.journal.stored import (
    DuplicateJob,
    Entry,
    EntryRefused,
    JobQuery,
    Removed,
    RequestTaken,
    Retention,
    StoredRequest,
    UnknownJob,
)
from tests.journal.jobs import (
    NEVER_EXECUTED,
    NOON,
    RETURNED,
    STOPPED,
    database_in,
    entries,
    finished,
    ids,
    job_id,
    key,
    launched,
    record_after,
    records,
    write,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new journal."""
    opened = database_in(tmp_path)
    yield opened
    opened.close()


def test_a_job_is_found(database: Database) -> None:
    """A job is what its events make of it, from its first event to its end, in one batch or in several."""
    first = launched()
    for count, entry in enumerate(entries(first, *STOPPED)):
        assert database.write([entry]) == [count + 1]
        stored = database.find(first.id)
        assert stored is not None
        assert (stored.key, stored.record) == (1, record_after(first, *STOPPED[:count]))
    other = launched()
    assert write(database, other, *RETURNED) == [9, 10, 11, 12]
    assert records(database) == [record_after(other, *RETURNED), record_after(first, *STOPPED)]


def test_what_is_written_stays(tmp_path: Path) -> None:
    """A database that is closed and opened has the same jobs, events and numbers."""
    first, second = launched(), launched()
    before = database_in(tmp_path)
    write(before, first, *RETURNED)
    write(before, second, Executed())
    events, before_records = before.events(0), records(before)
    before.close()
    after = database_in(tmp_path)
    assert (after.events(0), records(after)) == (events, before_records)
    assert after.write([Entry.of(second.id, MainProcessDied(death=Exited(0)))]) == [7]
    after.close()


def test_jobs_mixed_in_one_batch(database: Database) -> None:
    """Entries of several jobs are written in their order."""
    first, second = launched(), launched()
    mixed = list(chain.from_iterable(zip(entries(first, *RETURNED), entries(second, *RETURNED), strict=True)))
    assert database.write(mixed) == list(range(1, 9))
    assert records(database) == [record_after(second, *RETURNED), record_after(first, *RETURNED)]


def test_a_wrong_entry_fails_alone(database: Database) -> None:
    """An event that cannot be is refused; the others of its batch are written."""
    first, again, unknown = launched(), launched(), job_id(3)
    batch = [
        *entries(first, Executed()),
        Entry.of(first.id, StopSignalled()),
        Entry.of(unknown, Executed()),
        *entries(launched(of=first.id)),
        *entries(again),
    ]
    written = database.write(batch)
    assert [type(result) for result in written] == [int, int, InvalidTransition, UnknownJob, DuplicateJob, int]
    assert records(database) == [record_after(again), record_after(first, Executed())]
    assert database.write([Entry.of(unknown, Executed())])[0].__class__ is UnknownJob


def test_a_value_that_cannot_be_stored(database: Database) -> None:
    """A bug in one entry fails that entry, and no other of its batch."""
    first, second = launched(), launched()
    batch = [*entries(first, Executed()), *entries(second)]
    batch[1].doc = None  # type: ignore[assignment]
    written = database.write(batch)
    assert [type(result) for result in written] == [int, EntryRefused, int]
    assert records(database) == [record_after(second), record_after(first)]


def test_open_jobs(database: Database) -> None:
    """Those that have not ended are given with their first event and the time of their last, the oldest first."""
    running, held = launched(), launched(request=key("r"))
    write(database, launched(), *RETURNED)
    write(database, running, Executed())
    write(database, held)
    jobs = database.open_jobs()
    assert [(job.key, job.launched, job.record) for job in jobs] == [
        (5, running, record_after(running, Executed())),
        (7, held, record_after(held)),
    ]
    assert jobs[1].last_event_at == NOON
    assert jobs[0].last_event_at > NOON


# --- what was never executed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), (MainProcessDied(death=Signalled(9)),)])
def test_what_was_never_executed_is_forgotten(database: Database, before: tuple[MainProcessDied, ...]) -> None:
    """Nothing of it is left but its removal, and its request id starts anew."""
    first = launched(request=key("r"))
    write(database, first, *before)
    assert database.write([Entry.of(first.id, NEVER_EXECUTED)]) == [2 + len(before)]
    assert database.find(first.id) is None
    assert database.request("client1", "r") is None
    assert [(event.job_id, event.event) for event in database.events(0).events] == [(first.id, Removed())]
    again = launched(request=key("r"))
    assert write(database, again) == [3 + len(before)]
    assert database.request("client1", "r") == StoredRequest(digest=key("r").digest, job_id=again.id, is_open=True)


def test_an_error_that_is_to_be_repeated(database: Database) -> None:
    """A Start that failed in exec leaves its error for the same request id, and no job."""
    first, error = launched(request=key("r")), RequestError(kind="command_not_runnable", text="\udcff not found")
    write(database, first)
    database.write([Entry.of(first.id, NEVER_EXECUTED, request_error=error)])
    assert database.find(first.id) is None
    assert database.request("client1", "r") == StoredRequest(digest=key("r").digest, job_id=first.id, error=error)
    assert [type(result) for result in write(database, launched(request=key("r")))] == [RequestTaken]


def test_a_job_that_nobody_was_told_of_is_gone_with_its_end(database: Database) -> None:
    """There is no moment at which it has ended and is there; its request id is free."""
    first = launched(request=key("r"))
    write(database, first, Executed())
    assert database.write([Entry.of(first.id, finished(), forget=True)]) == [3]
    assert records(database) == []
    assert [event.event for event in database.events(0).events] == [Removed()]
    assert database.request("client1", "r") is None
    assert database.discarded("") == [first.id], "whoever dies now, its output is known to be nobody's"


def test_outputs_that_are_still_to_be_removed(database: Database) -> None:
    """They are known, in pieces, until they are gone: those of jobs that were given up, and of no others."""
    jobs = sorted((launched() for _ in range(REMOVED_AT_ONCE + 2)), key=lambda job: job.id)
    for job in jobs:
        write(database, job, *RETURNED)
    kept, *gone = jobs
    database.remove([kept.id])
    for start in range(0, len(gone), REMOVED_AT_ONCE):
        database.remove([job.id for job in gone[start : start + REMOVED_AT_ONCE]], given_up=True)
    first = database.discarded("")
    assert [*first, *database.discarded(first[-1])] == [job.id for job in gone]
    database.forget_discarded(first)
    assert database.discarded("") == [gone[-1].id]


def test_a_job_that_was_executed_stays(database: Database) -> None:
    """Whatever its end says, who was told of it finds it."""
    first = launched()
    write(database, first, Executed(), NEVER_EXECUTED)
    assert len(records(database)) == 1


# --- requests ---------------------------------------------------------------------------------------------------------


def test_request_ids_are_their_owners(database: Database) -> None:
    """The same id of another client is another request; of the same client, it is taken."""
    first, second = launched("client1", request=key("r")), launched("client2", request=key("r", b"other"))
    write(database, first)
    write(database, second)
    assert [type(result) for result in write(database, launched("client1", request=key("r")))] == [RequestTaken]
    requests = [database.request(owner, "r") for owner in ("client1", "client2", "client3")]
    assert requests == [
        StoredRequest(digest=key("r").digest, job_id=first.id, is_open=True),
        StoredRequest(digest=key("r", b"other").digest, job_id=second.id, is_open=True),
        None,
    ]
    database.write(
        [Entry.of(first.id, Finished(cause=ServerLost("lost"), at=first.at, output_bytes=0, output_bytes_lost=0))]
    )
    assert database.request("client1", "r") == StoredRequest(digest=key("r").digest, job_id=first.id)


def test_a_job_that_is_removed_with_its_request(database: Database) -> None:
    """Its request id starts anew; that of a job that was only removed is remembered."""
    kept, gone = launched(request=key("kept")), launched(request=key("gone"))
    write(database, kept, *RETURNED)
    write(database, gone, *RETURNED)
    database.remove([kept.id])
    database.remove([gone.id], given_up=True)
    assert database.request("client1", "kept") is not None
    assert database.request("client1", "gone") is None


# --- pages ------------------------------------------------------------------------------------------------------------


def page_ids(database: Database, **options: object) -> list[list[JobId]]:
    """Pages of a query to the last, while a job is started and one removed between any two of them."""
    pages, before = [], None
    while True:
        page = database.page(JobQuery(before=before, limit=3, **options))  # type: ignore[arg-type]
        pages.append([job.record.id for job in page.jobs])
        if page.next is None:
            return pages
        before = page.next
        write(database, launched(), *RETURNED)
        database.remove([pages[0][0]])


def test_pages_while_jobs_come_and_go(database: Database) -> None:
    """Each job that is there all the time is on one page."""
    jobs = [launched() for _ in range(8)]
    for job in jobs:
        write(database, job, *RETURNED)
    wanted = [job.id for job in reversed(jobs)]
    assert page_ids(database) == [wanted[:3], wanted[3:6], wanted[6:]]


def test_pages_of_some_jobs(database: Database) -> None:
    """A query wants the jobs of one client, the open or the ended ones, or those of some causes."""
    running, other, returned, stopped = launched(), launched("client2"), launched(), launched()
    write(database, running, Executed())
    write(database, other, Executed())
    write(database, returned, *RETURNED)
    write(database, stopped, *STOPPED)

    def found(query: JobQuery) -> list[JobId]:
        return ids(job.record for job in database.page(query).jobs)

    assert found(JobQuery(owner="client2")) == [other.id]
    assert found(JobQuery(causes=())) == [other.id, running.id]
    assert found(JobQuery(owner="client1", causes=())) == [running.id]
    assert found(JobQuery(with_open=False)) == [stopped.id, returned.id]
    assert found(JobQuery(with_open=False, causes=())) == []
    assert found(JobQuery(with_open=False, causes=("stopped", "oom_killed"))) == [stopped.id]
    assert found(JobQuery(causes=("stopped",))) == [stopped.id, other.id, running.id]
    assert found(JobQuery(owner="nobody")) == []


def test_pages_of_a_time(database: Database) -> None:
    """A query wants the jobs that started at a time or later, and before another."""
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 5)]
    jobs = [replace(launched(), at=moment) for moment in moments]
    for job in jobs:
        write(database, job)
    page = database.page(JobQuery(started_from=moments[1], started_before=moments[3]))
    assert [job.record.id for job in page.jobs] == [jobs[2].id, jobs[1].id]


@pytest.mark.parametrize("owner", [None, "client1"])
@pytest.mark.parametrize("causes", [None, (), ("stopped",)])
@pytest.mark.parametrize("with_open", [True, False])
@pytest.mark.parametrize("started", [None, NOON])
def test_pages_read_what_they_want_alone(
    database: Database, owner: str | None, causes: tuple[str, ...] | None, with_open: bool, started: datetime | None
) -> None:
    """Whatever a query wants, the jobs that it does not want are passed over in an index."""
    write(database, launched())
    connection = database._connection
    assert connection is not None
    asked: list[tuple[str, apsw.Bindings | None]] = []

    def note(_cursor: apsw.Cursor, statement: str, values: apsw.Bindings | None) -> bool:
        asked.append((statement, values))
        return True

    connection.exec_trace = note
    database.page(JobQuery(owner=owner, causes=causes, with_open=with_open, started_from=started, before=10))
    connection.exec_trace = None
    ((statement, values),) = asked
    plans = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert [plan for plan in plans if "INTEGER PRIMARY KEY" in plan]
    assert [plan for plan in plans if "COVERING INDEX" in plan]
    assert [plan for plan in plans if "TEMP B-TREE" in plan or plan == "SCAN job"] == []


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_in_pieces(database: Database) -> None:
    """Who goes on from position to position sees each event once, in order, and of one client its own."""
    first, second = launched("client1"), launched("client2")
    write(database, first, *STOPPED)
    write(database, second, *RETURNED)
    for owner, wanted in ((None, [first, *STOPPED, second, *RETURNED]), ("client2", [second, *RETURNED])):
        position, seen = 0, []
        while position < database.last_seq:
            piece = database.events(position, owner, limit=3)
            seen += [event.event for event in piece.events]
            position = piece.position
        assert seen == wanted
    assert database.events(database.last_seq).events == ()


def test_events_of_others_are_passed_over(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call looks at a bounded number of events, and its position says how far it came."""
    monkeypatch.setattr("jobmaster.journal.reading.EVENTS_AT_ONCE", 5)
    write(database, launched("client1"), *STOPPED)
    write(database, launched("client2"))
    piece = database.events(0, "client2")
    assert (piece.events, piece.position) == ((), 5)
    assert [event.seq for event in database.events(5, "client2").events] == [9]


# --- retention --------------------------------------------------------------------------------------------------------


def ended(database: Database, owner: str, minutes: int) -> JobId:
    """A job that has ended so late."""
    first = launched(owner)
    write(database, first, Executed(), finished(minutes=minutes))
    return first.id


def test_who_goes_first(database: Database) -> None:
    """A client's own bound comes first, then of the client that has most, the job that ended first, by no clock."""
    early, middle, late = (ended(database, "client1", minutes) for minutes in (9, 1, 5))
    other = ended(database, "client2", 0)
    write(database, launched("client1"), Executed())

    def gone(total: int, of_client: int) -> set[JobId]:
        return {job for job, _ in database.expired(Retention(ended=total, ended_of_client=of_client))}

    assert gone(4, 3) == set()
    assert gone(4, 2) == {early}
    assert gone(3, 3) == {early}
    assert gone(2, 3) == {early, middle}
    assert gone(1, 3) in ({early, middle, late}, {early, middle, other})
    assert gone(0, 0) == {late, early, middle, other}


def test_the_clock_is_set_back(database: Database) -> None:
    """The job that has just ended is the last one to go, also where the clock says that it ended first."""
    first, second = ended(database, "client1", 60), ended(database, "client1", 61)
    started_first = launched()
    write(database, started_first)
    ended(database, "client1", 62)
    database.write([Entry.of(started_first.id, event) for event in (Executed(), finished(minutes=1))])
    gone = database.expired(Retention(ended=100, ended_of_client=2))
    assert gone == [(first, "client1"), (second, "client1")]


def test_a_page_of_large_jobs(database: Database) -> None:
    """A page ends where it is long enough, and the next one goes on there; a job that is too large comes alone."""
    large = CommandLine.of(JobSpecification(command="echo", args=("x" * 15_000,)))
    jobs = [replace(launched(), command=large) for _ in range(150)]
    for each in jobs:
        write(database, each)
    pages = [database.page(JobQuery(limit=1_000))]
    while (before := pages[-1].next) is not None:
        pages.append(database.page(JobQuery(limit=1_000, before=before)))
    assert [job.record.id for page in pages for job in page.jobs] == [job.id for job in reversed(jobs)]
    assert [len(page.jobs) for page in pages] == [67, 67, 16]


def test_an_answer_of_large_events(database: Database) -> None:
    """An answer has events of so many characters, and at least one."""
    large = CommandLine.of(JobSpecification(command="echo", args=("x" * 15_000,)))
    for _ in range(10):
        write(database, replace(launched(), command=large))
    told: list[int] = []
    sizes: list[int] = []
    while len(told) < 10:
        answer = database.events(told[-1] if told else 0)
        told += [event.seq for event in answer.events]
        sizes.append(len(answer.events))
        assert answer.position == told[-1]
    assert told == list(range(1, 11))
    assert sizes == [4, 4, 2]


def test_removed_jobs_are_gone(database: Database) -> None:
    """Nothing is left of a removed job but that it was removed; one that has not ended stays."""
    gone, running = launched(request=key("r")), launched()
    write(database, gone, *RETURNED)
    write(database, running, Executed())
    database.remove([gone.id, running.id, job_id(7)])
    assert ids(records(database)) == [running.id]
    events = database.events(0).events
    assert [(event.job_id, type(event.event)) for event in events] == [
        (running.id, Launched),
        (running.id, Executed),
        (gone.id, Removed),
    ]
    assert database.request("client1", "r") == StoredRequest(digest=key("r").digest, job_id=gone.id)


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """A number of something that is removed is not given again, by the next process either."""
    database = database_in(tmp_path)
    first = launched()
    write(database, first, *RETURNED)
    database.remove([first.id])
    database.close()
    database = database_in(tmp_path)
    assert write(database, launched()) == [6]
    database.close()
