"""The property test: whatever happens and whatever fails, every job ends, every wait returns and the record is true.

Schedules are random and repeatable: a failure names its seed, and `ENGINE_SEED=<seed>` plays that one alone.
`ENGINE_SCHEDULES` says how many are played (300 by default).
"""

from __future__ import annotations

import math
import os
import re
import signal
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import HandedOver, JobmasterError, JobNotFound, JobNotRunning, OutputUnreadable
from jobmaster.job.cause import (
    Cause,
    Exited,
    FailedToStart,
    OomKilled,
    OutputCapped,
    ServerLost,
    ServerShutdown,
    Signalled,
    Stopped,
    TimedOut,
)
from jobmaster.job.record import JobRecord
from jobmaster.job.state import Ended
from jobmaster.output import moving
from jobmaster.output.files import index_path
from jobmaster.output.index import Stream
from jobmaster.output.index_reader import stored_view, with_index
from jobmaster.run.death_watch import SETTLE_SECONDS
from jobmaster.run.oom_counters import LOOK_SECONDS
from jobmaster.run.teardown import CLOSING_SECONDS, REMOVAL_SECONDS
from tests.run.play import History, Left, play
from tests.run.schedules import POINTS, WARNING, Ending, Follow, Pause, Start, Stop, name_of, schedule
from tests.run.scripted import NEVER, ScriptedExecution, output

SCHEDULES: Final = int(os.environ.get("ENGINE_SCHEDULES", "300"))
ONE: Final = os.environ.get("ENGINE_SEED")
BATCH: Final = 100

TIME: Final = "its time"
"""Who has asked for the end of a job that has run for as long as it may."""
LATE_SECONDS: Final = 0.01

Told = tuple[object, ...]
"""A cause, without what a script cannot know (times, texts)."""


def played(seed: int, folder: Path) -> History:
    """Plays a seed's schedule in a folder that is empty, and empties it."""
    threads = (
        moving.PUMPS.total_tokens
    )  # a thread that ends after the loop of an earlier test has not given its token back
    history = play(schedule(seed), folder)
    check(history)
    assert moving.PUMPS.total_tokens == threads
    for file in folder.iterdir():
        file.unlink()
    return history


@pytest.mark.parametrize("first", [int(ONE)] if ONE else range(0, SCHEDULES, BATCH))
def test_any_schedule(first: int, tmp_path: Path) -> None:
    """Of any schedule every claim below holds."""
    for seed in [first] if ONE else range(first, min(first + BATCH, SCHEDULES)):
        try:
            played(seed, tmp_path)
        except (Exception, BaseExceptionGroup) as error:
            error.add_note(f"to play it again: ENGINE_SEED={seed}\n{schedule(seed)}")
            raise


def check(history: History) -> None:
    """Holds a history against every claim."""
    assert history.running_at_end == 0, "a job has not ended"
    assert not history.hung, f"calls that did not return: {[history.schedule.steps[each] for each in history.hung]}"
    check_bugs(history)
    check_calls(history)
    for number in range(len(history.schedule.scripts)):
        execution = history.execution_of(number)
        if execution is not None:
            check_job(history, number, execution)
    check_what_is_left(history)


def check_bugs(history: History) -> None:
    """No traceback is logged but that of a bug which the script has."""
    scripted = [bug for bug in history.bugs if "scripted" in bug]
    assert history.bugs == scripted, f"bugs: {history.bugs}"


def check_calls(history: History) -> None:
    """Calls return what they should, and raise nothing but what the host's failures and the schedule explain."""
    for index, step in enumerate(history.schedule.steps):
        match step, history.outcomes.get(index):
            case _, Left() | None:
                continue
            case Start(), JobmasterError() | str():
                continue
            case Start(), RuntimeError() as error:
                assert "scripted" in str(error), f"{step}: {error!r}"
            case Stop(), JobRecord(state=state):
                assert isinstance(state, Ended), f"{step} returned the record of a job that is {state}"
            case Pause(), JobRecord() | JobNotRunning():
                continue
            case Follow(), bytes():
                continue
            case Follow(), OSError() | JobmasterError() as error:
                check_follower_error(history, step, error)
            case _, JobmasterError() as error:
                is_told_to_ask_again = history.schedule.ending.is_followed and isinstance(error, HandedOver)
                assert is_told_to_ask_again or isinstance(error, JobNotFound), f"{step}: {error!r}"
            case _, outcome:
                raise AssertionError(f"{step} got {outcome!r}")


def check_follower_error(history: History, step: Follow, error: Exception) -> None:
    """A follower fails where its disk, its thread or its job has, and is not there for a stranger's job."""
    fails = history.faults.have_met("log.preadv", "log.pread", "reader thread")
    is_gone = isinstance(error, OutputUnreadable) and is_forgotten(history, step.job)
    is_gone |= isinstance(error, HandedOver) and history.schedule.ending.is_followed
    assert fails or is_gone or type(error).__name__ == "JobNotFound", f"{step}: {error!r}"


def is_forgotten(history: History, number: int) -> bool:
    """Whether the bound on ended jobs may have made the registry forget a job."""
    execution = history.execution_of(number)
    return execution is None or history.record_of(execution) is None


def check_job(history: History, number: int, execution: ScriptedExecution) -> None:
    """A job whose Start returned has a true record; one whose Start did not, none and nothing else."""
    record = history.record_of(execution)
    index, start = history.start_of(number)
    check_once(history, number)
    if history.job_of(number) is None and not start.request_id:
        assert record is None, f"a Start that failed left {record}"
        executed = execution.truth.executed
        is_before = executed is None or executed < history.answered[index]
        cannot_kill = history.faults.have_met("kill", whose=execution.job_id)
        assert is_before or cannot_kill, f"{execution} was executed after it was refused"
        return
    if history.job_of(number) is None and record is None:
        return
    if record is None:
        starts = sum(each.truth.executed is not None for each in history.host.made)
        assert starts > history.schedule.bounds.ended_of_client, f"{execution} was forgotten"
        return
    assert isinstance(record.state, Ended)
    assert execution.truth.executed is not None
    check_hand_over(history, number, execution)
    causes = true_causes(history, number, execution)
    assert told(record.state.cause) in causes, f"{execution}: {record.state.cause} instead of one of {causes}"
    check_output(history, number, execution, record)
    check_run_time(history, number, execution)
    paused = execution.truth.frozen_seconds(execution.truth.died_at)
    assert abs(record.paused_for / 1e6 - paused) < LATE_SECONDS, f"{execution} was paused for {paused} s"


def check_once(history: History, number: int) -> None:
    """A Start that was refused at a hand-over and comes again by its request id finds the job that was executed, or starts it."""
    index, _ = history.start_of(number)
    name = name_of(number)
    made = [each for each in history.host.made if each.command == name and each.truth.executed is not None]
    assert len(made) <= 1, f"{name} was executed {len(made)} times"
    again = history.repeated.get(index)
    if isinstance(again, str):
        assert [each.job_id for each in made] == [again], f"{name}: {again} of {made}"


def check_hand_over(history: History, number: int, execution: ScriptedExecution) -> None:
    """Nobody kills a job between two servers, unless somebody had asked for its end."""
    begin, end = history.gap
    killed = execution.truth.killed
    if (
        execution.truth.timed_out is not None
        or any(job == number for _, job, _ in history.orders)
        or execution.script.bug is not None
    ):
        return
    assert killed is None or not begin < killed < end, f"{execution} was killed when it was handed over"


def check_run_time(history: History, number: int, execution: ScriptedExecution) -> None:
    """No job is ended before its time is over, or warned twice; and none runs on that nothing else ends.

    Its time is over when it has run for so long, without its pauses.
    """
    run_time, truth = history.schedule.run_times[number], execution.truth
    if run_time is None:
        assert (truth.timed_out, truth.warnings) == (None, [])
        return
    paused = truth.frozen_seconds(truth.died_at)
    due = max(execution.made_at + run_time.seconds + paused, truth.executed_at)
    assert len(truth.warnings) <= bool(run_time.warn_before_ms)
    if truth.timed_out is not None:
        ran = truth.timed_out_at - execution.made_at - truth.frozen_seconds(truth.timed_out_at)
        assert ran > run_time.seconds - 0.001, f"{execution} was ended after {ran} s"
    begin, end = history.unwatched
    is_unseen = begin <= due + LATE_SECONDS and truth.died_at <= end  # between two servers
    if due + LATE_SECONDS < truth.died_at < math.inf and not is_unseen:
        assert truth.terms or truth.killed or orders_of(history, number, execution), "it ran on"


def check_output(history: History, number: int, execution: ScriptedExecution, record: JobRecord) -> None:
    """Kept and lost bytes are those written, each kept one is at its offset, and followers saw these."""
    kept, lost, written = record.output_bytes, record.output_bytes_lost, execution.truth.written
    file = history.folder / f"{execution.job_id}.log"
    if "remover" in history.schedule.delays and history.schedule.ending is not Ending.DRAIN and not file.exists():
        return  # it was to be forgotten, and its record goes with the next look
    stored, expected = file.read_bytes(), output(written)
    runs = runs_of(file, kept + lost)
    for start, end in runs:
        assert stored[start:end] == expected[start:end], f"{execution}: what is kept is not what was written"
    assert sum(end - start for start, end in runs) >= kept
    if dies_in_time(execution):
        assert kept + lost == written, f"{execution}: kept {kept}, lost {lost}, written {written}"
    assert kept + lost <= written
    for index, step in enumerate(history.schedule.steps):
        seen = history.outcomes.get(index)
        if isinstance(step, Follow) and step.job == number and isinstance(seen, bytes):
            told = b"".join(stored[max(start, step.offset) : end] for start, end in runs)
            assert seen == told, f"{step} saw {len(seen)} bytes of {kept}"


def runs_of(file: Path, end: int) -> list[tuple[int, int]]:
    """The ranges of an output that has so many bytes, kept and lost, of which the bytes are there."""
    size = min(end, file.stat().st_size)

    def runs(fd: int) -> list[tuple[int, int]] | None:
        view, found, run_end = stored_view(fd), list[tuple[int, int]](), 0
        if view is None:
            return None
        for run in view.runs(0):
            run_end = size if run.end is None else min(run.end, size)
            found += [(run.start, run_end)] * isinstance(run.what, Stream)
            if run_end == size:
                break
        return found

    found = with_index(index_path(file), runs)
    return [(0, size)] if found is None else found  # which has none where all of it was lost


def dies_in_time(execution: ScriptedExecution) -> bool:
    """Whether all processes die while the job is being closed: otherwise they may write after its end."""
    return execution.script.death_seconds < CLOSING_SECONDS


# --- the oracle -------------------------------------------------------------------------------------------------------


def told(cause: Cause) -> Told:
    """A cause as a script can know it."""
    match cause:
        case Exited(code):
            return ("exited", code)
        case Signalled(number):
            return ("signalled", number)
        case Stopped():
            return ("stopped", cause.by, cause.signal, cause.exit_code, cause.killed)
        case OomKilled():
            return ("out of memory",)
        case ServerShutdown(signal=number):
            return ("shutdown", number)
        case ServerLost():
            return ("lost",)
        case OutputCapped():
            return ("its output was full",)
        case FailedToStart():
            return ("failed to start",)
        case TimedOut():
            return ("timed out", cause.signal, cause.exit_code, cause.killed)


def true_causes(history: History, number: int, execution: ScriptedExecution) -> set[Told]:
    """What may be said of a job's end; more than one thing only where two happened in one instant."""
    truth, faults = execution.truth, history.faults
    if truth.death is None or truth.died is None:
        return {("lost",)}
    if execution.is_lost:
        return {("lost",)}
    if truth.warnings and truth.death == Signalled(WARNING) and not truth.terms:
        return {("timed out", WARNING, None, False)}
    order = first_order(history, number, execution)
    is_killed = truth.killed is not None and truth.killed < truth.died
    causes: set[Told] = {("lost",)} if not dies_in_time(execution) and is_killed else set()
    ended = {ended_by(execution, order, killed=is_killed)} if truth.terms or is_killed else {told(truth.death)}
    if faults.have_met("kill", whose=execution.job_id) and truth.terms:
        ended.add(ended_by(execution, order, killed=True))  # it was sent as far as can be known
    if faults.have_met("execute", whose=execution.job_id) and is_killed:
        ended.add(
            ("stopped", "", signal.SIGKILL, None, True)
        )  # given up by a server that could not know it to be executed
    if faults.have_met("has_died", whose=execution.job_id):
        ended |= {ended_by(execution, order, killed=killed) for killed in (True, False)}
    if truth.killed_for_memory is not None:
        causes.add(("out of memory",))
        return causes | (ended if is_killed or counter_failed(history, execution) else set())
    could_be = could_be_memory(history, execution) if not is_killed else could_be_unseen(history, execution)
    if truth.death == Signalled(signal.SIGKILL) and could_be:
        causes.add(("out of memory",))
    return causes | ended


def could_be_memory(history: History, execution: ScriptedExecution) -> bool:
    """Whether a child was killed for memory so shortly before that the main process's death looks the same."""
    since = execution.truth.died_at - execution.truth.child_killed_at
    begin, end = history.unwatched
    if begin <= execution.truth.child_killed_at + LOOK_SECONDS + SETTLE_SECONDS and execution.truth.died_at <= end:
        return True  # between two servers
    return since <= LOOK_SECONDS + SETTLE_SECONDS + 0.01 or (since < NEVER and counter_failed(history, execution))


def could_be_unseen(history: History, execution: ScriptedExecution) -> bool:
    """Whether a child may have been killed while the next server held the job: nobody looks at the counters then."""
    return history.schedule.ending.is_followed and execution.truth.child_killed_at > -NEVER


def counter_failed(history: History, execution: ScriptedExecution) -> bool:
    """Whether the kernel's counters could not be read when it mattered."""
    return history.faults.have_met("oom_kills", "is_dying", whose=execution.job_id)


def first_order(history: History, number: int, execution: ScriptedExecution) -> str | None:
    """Who asked first for a job's end while it was held or ran: a client, its own time, or (None) the server."""
    return next((by for _, by in orders_of(history, number, execution)), None)


def orders_of(history: History, number: int, execution: ScriptedExecution) -> list[tuple[int, str | None]]:
    """All who asked for that, and in which step, in this order."""
    died = execution.truth.died
    assert died is not None
    by_client = [(step, by) for step, job, by in history.orders if job == number]
    by_time = [(execution.truth.timed_out, TIME)] if execution.truth.timed_out is not None else []
    by_server = [(step, None) for step in history.drains if step > execution.truth.made]  # not by one that never had it
    return [order for order in sorted([*by_client, *by_time, *by_server]) if order[0] < died]


def ended_by(execution: ScriptedExecution, order: str | None, *, killed: bool) -> Told:
    """What is said of a job that was told to end."""
    death = execution.truth.death
    number = death.signal if isinstance(death, Signalled) else execution.stop_signal
    code = death.code if isinstance(death, Exited) else None
    if order is None:
        return ("shutdown", number)
    if order == TIME:
        return ("timed out", number, code, killed)
    return ("stopped", order, number, code, killed)


# --- nothing is left --------------------------------------------------------------------------------------------------


def check_what_is_left(history: History) -> None:
    """Of executions and files nothing is left but what could not be removed, and what belongs to a record."""
    leftovers = {id(execution) for execution in history.registry._leftovers.executions}
    for execution in history.host.made:
        if id(execution) in leftovers:
            assert may_be_left(history, execution), f"{execution} is left"
        else:
            assert execution.is_removed, f"{execution} was not removed, and nobody tries again"
            assert execution.is_closed, f"{execution} was not closed"
    recorded = {each.job_id for each in history.host.made if history.record_of(each) is not None}
    left = {file.stem for file in history.folder.iterdir()} - recorded
    assert not left or may_leave_files(history), f"output of jobs that nobody knows: {left}"
    unknown = [history.folder / f"{job_id}.log" for job_id in left - history.records.gone]
    assert not any(map(size_of, unknown)), f"output that no other server will remove: {unknown}"


def size_of(file: Path) -> int:
    """Of a file that may not be there."""
    return file.stat().st_size if file.exists() else 0


def may_leave_files(history: History) -> bool:
    """Whether the last try to remove files failed, or began too late: there is none after it; or more waited than may."""
    failed_last = {point for point, _ in history.faults.met[history.met_before_end :]} & {"unlink", "remover thread"}
    unknown = sum(history.record_of(each) is None for each in history.host.made)
    is_full = history.faults.have_met("unlink", "remover thread") and unknown > history.schedule.bounds.ended
    return (
        bool(failed_last)
        or is_full
        or ("remover" in history.schedule.delays and history.schedule.ending is not Ending.DRAIN)
    )


def may_be_left(history: History, execution: ScriptedExecution) -> bool:
    """Whether something of it could not die or be removed before the registry ended."""
    script = execution.script
    return (
        not dies_in_time(execution)
        or script.busy_seconds > REMOVAL_SECONDS
        or history.faults.have_met("kill", "is_populated", "lift_limits", "remove", whose=execution.job_id)
    )


def test_the_schedules_meet_every_failure(tmp_path: Path) -> None:
    """Every call that can fail does so in the schedules that are always played."""
    if ONE or SCHEDULES < 300:
        pytest.skip("asked for fewer schedules")
    planned = {fault.point for seed in range(SCHEDULES) for fault in schedule(seed).faults}
    assert planned == POINTS.keys()


def test_a_schedule_can_be_repeated(tmp_path: Path) -> None:
    """The same seed gives the same history, so that a failure can be looked at again."""

    def told_by(history: History) -> str:
        told = repr((history.outcomes, history.orders, history.drains, history.faults.met))
        return re.sub(r"\b\w{27}\b|datetime\.datetime\(.*?utc\)", "…", told)

    for seed in range(20):
        assert told_by(played(seed, tmp_path)) == told_by(played(seed, tmp_path)), f"seed {seed}"
