"""A job's record changes by events alone: replayed, the same events give the same record."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.job.cause import (
    Cause,
    Evidence,
    Exited,
    FailedToStart,
    OomKilled,
    ServerLost,
    Signalled,
    StopOrder,
    Stopped,
)
from jobmaster.job.identifier import JobId
from jobmaster.job.memory import OomLimit
from jobmaster.job.record import (
    JobEvent,
    JobRecord,
    LimitReport,
    OomKillsCounted,
    OutputPruned,
    Paused,
    Resumed,
    SignalOrdered,
    apply,
    describe_job,
    evidence_of,
)
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import (
    TRANSITIONS,
    Closing,
    Ended,
    Event,
    Executed,
    Finished,
    Held,
    InvalidTransition,
    KillSent,
    MainProcessDied,
    Running,
    State,
    StopOrdered,
    Stopping,
    StopSignalled,
)
from jobmaster.job.usage import MemoryEventCounts, MemoryUsage, Usage

NOON: Final = datetime(2026, 1, 2, 12, tzinfo=UTC)
ORDER: Final = StopOrder(by="client1", requested_at=NOON)
RECORD: Final = JobRecord(
    id=JobId("0ujtsYcgvSTl8PAuAdqWYSMnLOv"),
    owner="client1",
    command=CommandLine.of(JobSpecification(command="ls", args=("-l",))),
    state=Held(pid=42, started_at=NOON),
    limits=(LimitReport(name="memory", value="memory.max 1"),),
)
STOP: Final[tuple[Event | OomKillsCounted, ...]] = (
    Executed(),
    OomKillsCounted(count=1),
    StopOrdered(order=ORDER),
    StopSignalled(),
    OomKillsCounted(count=2),
    KillSent(),
    MainProcessDied(death=Signalled(9)),
    Finished(
        cause=Stopped(by="client1", requested_at=NOON, signal=9, killed=True),
        at=NOON,
        output_bytes=2**40,
        output_bytes_lost=7,
    ),
)

events = st.sampled_from(
    [
        Executed(),
        OomKillsCounted(count=1),
        OomKillsCounted(count=3),
        StopOrdered(order=ORDER),
        StopOrdered(order=StopOrder(by=None, requested_at=NOON)),
        StopSignalled(),
        KillSent(),
        MainProcessDied(death=Exited(3)),
        MainProcessDied(death=Signalled(9)),
        Finished(cause=Exited(3), at=NOON, output_bytes=5, output_bytes_lost=0),
        Finished(cause=FailedToStart("x"), at=NOON, output_bytes=0, output_bytes_lost=0),
    ]
)


def test_a_life() -> None:
    """A job that is executed, stopped and killed goes through its states, and what stays the same stays."""
    records = [RECORD]
    for event in STOP:
        records.append(apply(records[-1], event))
    states = [type(record.state) for record in records]
    assert states == [Held, Running, Running, Stopping, Stopping, Stopping, Stopping, Closing, Ended]
    last = records[-1]
    assert (last.oom_kills, last.output_bytes, last.output_bytes_lost) == (2, 2**40, 7)
    assert replace(last, state=RECORD.state, oom_kills=0, output_bytes=0, output_bytes_lost=0) == RECORD


def test_events_do_not_change_a_record() -> None:
    """Each gives a new one."""
    before = replace(RECORD)
    apply(RECORD, Executed())
    apply(RECORD, OomKillsCounted(count=3))
    assert before == RECORD


def test_a_removed_output() -> None:
    """That of an ended job alone is removed to make room, once; what the job was is still told."""
    ended = reduce(apply, STOP, RECORD)
    pruned = OutputPruned(at=NOON, reason="too much")
    after = apply(ended, pruned)
    assert after == replace(ended, output_pruned=pruned)
    assert apply(after, OutputPruned(at=NOON, reason="again")) == after
    with pytest.raises(InvalidTransition):
        apply(RECORD, pruned)


PAUSED: Final = Paused(by="client1", at=NOON)
RESUMED: Final = Resumed(by="client2", at=NOON)
SIGNALLED: Final = SignalOrdered(signal=10, by="client1", at=NOON)
RUNNING: Final = apply(RECORD, Executed())
STATES: Final = {
    type(state): state
    for state in (
        RECORD.state,
        RUNNING.state,
        Stopping(pid=1, started_at=NOON, order=ORDER),
        Closing(pid=1, started_at=NOON, death=Exited(0)),
        Ended(pid=1, started_at=NOON, ended_at=NOON, cause=Exited(0)),
    )
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", [PAUSED, RESUMED, SIGNALLED], ids=lambda event: type(event).__name__)
def test_each_order_in_each_state(event: Paused | Resumed | SignalOrdered, state: type) -> None:
    """A running job alone is paused and resumed; a signal is ordered for one that is being stopped, too; no state changes."""
    record = replace(RECORD, state=STATES[state])
    if state is Running or (state is Stopping and event is SIGNALLED):
        assert apply(record, event).state == record.state
    else:
        with pytest.raises(InvalidTransition):
            apply(record, event)


def test_a_record_is_paused() -> None:
    """Until it is resumed, stopped, or dies; it counts how often it was."""
    paused = apply(RUNNING, PAUSED)
    assert (paused.paused, paused.pauses) == (True, 1)
    assert apply(apply(apply(paused, RESUMED), PAUSED), PAUSED).pauses == 3
    finished = Finished(cause=Exited(0), at=NOON, output_bytes=0, output_bytes_lost=0)
    for event in (RESUMED, StopOrdered(order=ORDER), MainProcessDied(death=Signalled(9)), finished):
        assert not apply(paused, event).paused
    for other in (OomKillsCounted(count=1), SIGNALLED):
        assert apply(paused, other).paused


def test_who_has_ordered_a_signal_last() -> None:
    """The last client of each signal is the one whose signal it was, if the job dies of it."""
    other = SignalOrdered(signal=12, by="client2", at=NOON, to_all=True)
    last = replace(SIGNALLED, by="superuser")
    record = reduce(apply, (SIGNALLED, other, last), RUNNING)
    assert record.signals == (other, last)
    assert evidence_of(record, lost_because="").signalled_by == {10: "superuser", 12: "client2"}


@pytest.mark.parametrize(("count", "after"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_a_counter_does_not_fall(count: int, after: int) -> None:
    """A count of OOM kills that is lower than one before (its cgroup is gone) changes nothing."""
    record = apply(RECORD, OomKillsCounted(count=2))
    assert apply(record, OomKillsCounted(count=count)).oom_kills == after


@pytest.mark.parametrize("state", [Held(pid=1, started_at=NOON), Running(pid=1, started_at=NOON)])
def test_what_cannot_happen_is_refused(state: Held | Running) -> None:
    """An event that the table does not have is an error here too."""
    with pytest.raises(InvalidTransition):
        apply(replace(RECORD, state=state), StopSignalled())


@given(st.lists(events, max_size=12))
def test_a_replay_gives_the_same(lived: list[Event | OomKillsCounted]) -> None:
    """Of any events, those that could happen, replayed, give the record that the life gave, at every point of it."""
    record, happened = RECORD, []
    for event in lived:
        if isinstance(event, OomKillsCounted) or (type(record.state), type(event)) in TRANSITIONS:
            record = apply(record, event)
            happened.append(event)
        else:
            with pytest.raises(InvalidTransition):
                apply(record, event)
        assert reduce(apply, happened, RECORD) == record


@pytest.mark.parametrize("is_death_known", [True, False])
def test_the_evidence_of_a_record(is_death_known: bool) -> None:
    """What happened to a job is the evidence of its cause, but for a death that is not to be relied upon."""
    record = reduce(apply, STOP[:-1], RECORD)
    assert evidence_of(record, lost_because="a bug", is_death_known=is_death_known) == Evidence(
        death=Signalled(9) if is_death_known else None,
        order=ORDER,
        killed=True,
        oom_kills=2,
        memory_max=1,
        lost_because="a bug",
    )


def test_the_evidence_of_a_usage() -> None:
    """What was used tells of the memory; where it does not tell of group kills, nothing is said of them."""
    died = MainProcessDied(death=Signalled(9), killed_for_memory=True, oom_limit=OomLimit.CLIENT)
    record = apply(replace(RECORD, state=Running(pid=1, started_at=NOON)), died)
    told = []
    for events in (None, MemoryEventCounts(oom_kill=1), *map(group_kills, (0, 1))):
        evidence = evidence_of(record, lost_because="", usage=Usage(memory=MemoryUsage(peak=7, events=events)))
        assert (evidence.oom_limit, evidence.memory_peak) == (OomLimit.CLIENT, 7)
        told.append(evidence.whole_job)
    assert told == [None, None, False, True]
    assert evidence_of(record, lost_because="", usage=Usage()).memory_peak is None


def ended_by(cause: Cause) -> Ended:
    """A job that has."""
    return Ended(pid=1, started_at=NOON, ended_at=NOON, cause=cause)


def group_kills(count: int) -> MemoryEventCounts:
    """So many."""
    return MemoryEventCounts(oom_kill=1, oom_group_kill=count)


@pytest.mark.parametrize(
    ("state", "count", "sentence"),
    [
        (Running(pid=1, started_at=NOON), 0, "running"),
        (Running(pid=1, started_at=NOON), 1, "running; 1 of its processes was killed by the kernel for memory"),
        (ended_by(Exited(0)), 2, "exited with code 0; 2 of its processes were killed by the kernel for memory"),
        (
            ended_by(OomKilled(memory_max=1, processes_killed=2)),
            2,
            "out of memory: killed by the kernel, 2 processes (its limit is 1 bytes)",
        ),
    ],
)
def test_processes_that_were_killed_for_memory_are_told(state: State, count: int, sentence: str) -> None:
    """Of a job that went on without them, or ended for another reason; where they are the reason, once."""
    assert describe_job(replace(RECORD, state=state, oom_kills=count)) == sentence


@pytest.mark.parametrize("never_executed", [None, "no such file"])
def test_the_evidence_of_a_job_that_has_not_died(never_executed: str | None) -> None:
    """Nothing is known of its death, and why is told."""
    evidence = evidence_of(RECORD, lost_because="lost", never_executed=never_executed)
    assert evidence == Evidence(death=None, never_executed=never_executed, memory_max=1, lost_because="lost")


@pytest.mark.parametrize(
    ("ending", "paused_for"),
    [
        (Resumed(by="client1", at=NOON, age=7), 4),
        (Resumed(by="client1", at=NOON), 0),
        (Resumed(by="client1", at=NOON, age=2), 0),
        (StopOrdered(order=ORDER, age=8), 5),
        (MainProcessDied(death=Exited(0), age=9), 6),
        (Finished(cause=ServerLost("?"), at=NOON, output_bytes=0, output_bytes_lost=0, age=10), 7),
        (Finished(cause=ServerLost("?"), at=NOON, output_bytes=0, output_bytes_lost=0), 0),
    ],
)
def test_how_long_a_record_was_paused(ending: JobEvent, paused_for: int) -> None:
    """By the ages of the main process, where both are known; all pauses together, and no time beyond them counts as run."""
    paused = apply(RUNNING, Paused(by="client1", at=NOON, age=3))
    assert paused.run_seconds(5.0) == 3e-6
    after = apply(paused, ending)
    assert (after.paused, after.paused_for, after.paused_at_age) == (False, paused_for, None)
    if isinstance(ending, Resumed):
        again = apply(apply(after, Paused(by="client1", at=NOON, age=10)), Resumed(by="client1", at=NOON, age=20))
        assert again.paused_for == paused_for + 10
        assert again.run_seconds(1.0) == pytest.approx(1 - again.paused_for / 1e6)
