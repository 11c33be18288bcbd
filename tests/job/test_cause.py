"""Why a job ended, from what was observed of its end."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.job.cause import (
    Cause,
    Evidence,
    Exited,
    FailedToStart,
    OomKilled,
    OutputCapped,
    ServerLost,
    ServerShutdown,
    Signalled,
    StopOrder,
    Stopped,
    TimedOut,
    cause_of,
    describe,
    signal_words,
)
from jobmaster.job.memory import OomLimit

NOON: Final = datetime(2026, 1, 2, 12, tzinfo=UTC)
BY_CLIENT: Final = StopOrder(by="client1", requested_at=NOON)
FOR_OUTPUT = StopOrder(by=None, requested_at=NOON, for_output=True)
FOR_RUN_TIME: Final = StopOrder(by=None, requested_at=NOON, for_run_time=True)
BY_SERVER: Final = StopOrder(by=None, requested_at=NOON)
KILLED: Final = Signalled(signal.SIGKILL)
TERMINATED: Final = Signalled(signal.SIGTERM)
MIB: Final = 2**20


def stopped(number: int, *, exit_code: int | None = None, killed: bool = False) -> Stopped:
    """A stop that the client of `BY_CLIENT` asked for."""
    return Stopped(by="client1", requested_at=NOON, signal=number, exit_code=exit_code, killed=killed)


CASES: Final[dict[str, tuple[Evidence, Cause]]] = {
    "success": (Evidence(death=Exited(0)), Exited(0)),
    "its own failure": (Evidence(death=Exited(255)), Exited(255)),
    "a signal from elsewhere": (Evidence(death=TERMINATED), TERMINATED),
    "a signal with a core": (
        Evidence(death=Signalled(signal.SIGSEGV, core_dumped=True)),
        Signalled(signal.SIGSEGV, core_dumped=True),
    ),
    "SIGKILL from elsewhere": (Evidence(death=KILLED), KILLED),
    "SIGKILL from elsewhere below a memory limit": (Evidence(death=KILLED, memory_max=MIB), KILLED),
    "SIGKILL from elsewhere, a child out of memory long ago": (Evidence(death=KILLED, oom_kills=1), KILLED),
    "out of memory, the whole group": (
        Evidence(death=KILLED, killed_for_memory=True, oom_kills=3, memory_max=50 * MIB),
        OomKilled(memory_max=50 * MIB, processes_killed=3),
    ),
    "out of memory of the host": (
        Evidence(death=KILLED, killed_for_memory=True, oom_kills=1),
        OomKilled(memory_max=None, processes_killed=1),
    ),
    "out of memory while it was being stopped": (
        Evidence(death=KILLED, order=BY_CLIENT, killed_for_memory=True, oom_kills=1, memory_max=MIB),
        OomKilled(memory_max=MIB, processes_killed=1),
    ),
    "out of memory while the server shut down": (
        Evidence(death=KILLED, order=BY_SERVER, killed_for_memory=True, oom_kills=1),
        OomKilled(memory_max=None, processes_killed=1),
    ),
    "a child out of memory, the job succeeded": (
        Evidence(death=Exited(0), killed_for_memory=True, oom_kills=1, memory_max=MIB),
        Exited(0),
    ),
    "a child out of memory, the job failed of it": (
        Evidence(death=Exited(137), killed_for_memory=True, oom_kills=1),
        Exited(137),
    ),
    "a child out of memory, another signal": (
        Evidence(death=TERMINATED, killed_for_memory=True, oom_kills=1),
        TERMINATED,
    ),
    "stopped by SIGTERM": (Evidence(death=TERMINATED, order=BY_CLIENT), stopped(signal.SIGTERM)),
    "stopped, SIGTERM handled": (Evidence(death=Exited(0), order=BY_CLIENT), stopped(signal.SIGTERM, exit_code=0)),
    "stopped, SIGTERM handled with a failure": (
        Evidence(death=Exited(1), order=BY_CLIENT),
        stopped(signal.SIGTERM, exit_code=1),
    ),
    "a client's signal": (Evidence(death=Signalled(10), signalled_by={10: "client1"}), Signalled(10, by="client1")),
    "another than a client's": (Evidence(death=Signalled(12), signalled_by={10: "client1"}), Signalled(12)),
    "stopped, and it crashed": (Evidence(death=Signalled(11), order=BY_CLIENT), stopped(signal.SIGSEGV)),
    "stopped, killed after the grace": (
        Evidence(death=KILLED, order=BY_CLIENT, killed=True),
        stopped(signal.SIGKILL, killed=True),
    ),
    "stopped, killed after the grace, a child out of memory before": (
        Evidence(death=KILLED, order=BY_CLIENT, killed=True, killed_for_memory=True, oom_kills=2, memory_max=MIB),
        stopped(signal.SIGKILL, killed=True),
    ),
    "never executed, whatever came then": (
        Evidence(death=KILLED, order=BY_CLIENT, killed=True, never_executed="no interpreter"),
        FailedToStart("no interpreter"),
    ),
    "never executed": (Evidence(death=Exited(127), never_executed="no interpreter"), FailedToStart("no interpreter")),
    "never executed, death not known": (Evidence(death=None, never_executed="x"), FailedToStart("x")),
    "not seen to die": (Evidence(death=None), ServerLost("its main process did not die when it was killed")),
    "not seen to die, being stopped": (
        Evidence(death=None, order=BY_CLIENT, killed=True, lost_because="the launcher was killed"),
        ServerLost("the launcher was killed"),
    ),
    "the server's shutdown": (Evidence(death=TERMINATED, order=BY_SERVER), ServerShutdown(signal=signal.SIGTERM)),
    "an output that is as large as it may be": (
        Evidence(death=TERMINATED, order=FOR_OUTPUT, output_max=MIB),
        OutputCapped(output_max=MIB, signal=signal.SIGTERM),
    ),
    "an output that is as large as it may be, killed after the grace": (
        Evidence(death=KILLED, order=FOR_OUTPUT, killed=True, output_max=MIB),
        OutputCapped(output_max=MIB, signal=signal.SIGKILL),
    ),
    "stopped, its own stop signal handled": (
        Evidence(death=Exited(3), order=StopOrder(by="client1", requested_at=NOON, signal=signal.SIGINT)),
        stopped(signal.SIGINT, exit_code=3),
    ),
    "the server's shutdown, its own stop signal handled": (
        Evidence(death=Exited(0), order=StopOrder(by=None, requested_at=NOON, signal=signal.SIGQUIT)),
        ServerShutdown(signal=signal.SIGQUIT, exit_code=0),
    ),
    "its time is over": (
        Evidence(death=TERMINATED, order=FOR_RUN_TIME, max_run_ms=1500),
        TimedOut(max_run_ms=1500, signal=signal.SIGTERM, killed=False),
    ),
    "its time is over, SIGTERM handled": (
        Evidence(death=Exited(0), order=FOR_RUN_TIME, max_run_ms=1500),
        TimedOut(max_run_ms=1500, signal=signal.SIGTERM, exit_code=0, killed=False),
    ),
    "its time is over, killed after the grace": (
        Evidence(death=KILLED, order=FOR_RUN_TIME, max_run_ms=1500, killed=True),
        TimedOut(max_run_ms=1500, signal=signal.SIGKILL, killed=True),
    ),
    "its time is over, and it had no memory": (
        Evidence(death=KILLED, order=FOR_RUN_TIME, max_run_ms=1500, killed_for_memory=True, oom_kills=1),
        OomKilled(memory_max=None, processes_killed=1),
    ),
    "it died of the warning": (
        Evidence(death=Signalled(signal.SIGUSR1), max_run_ms=1500, died_of_warning=True),
        TimedOut(max_run_ms=1500, signal=signal.SIGUSR1, killed=False),
    ),
    "the server's shutdown, SIGTERM handled": (
        Evidence(death=Exited(3), order=BY_SERVER),
        ServerShutdown(signal=signal.SIGTERM, exit_code=3),
    ),
    "the server's shutdown, killed after the grace": (
        Evidence(death=KILLED, order=BY_SERVER, killed=True, killed_for_memory=True, oom_kills=1),
        ServerShutdown(signal=signal.SIGKILL),
    ),
}

signals = st.integers(min_value=1, max_value=64)
deaths = st.one_of(
    st.builds(Exited, st.integers(min_value=0, max_value=255)), st.builds(Signalled, signals, st.booleans())
)
evidence = st.builds(
    Evidence,
    death=st.none() | deaths,
    never_executed=st.none() | st.text(),
    order=st.none()
    | st.just(FOR_OUTPUT)
    | st.just(FOR_RUN_TIME)
    | st.builds(StopOrder, by=st.none() | st.text(min_size=1), requested_at=st.just(NOON)),
    output_max=st.integers(min_value=1),
    max_run_ms=st.integers(min_value=1),
    died_of_warning=st.booleans(),
    killed=st.booleans(),
    killed_for_memory=st.booleans(),
    oom_kills=st.integers(min_value=0, max_value=10),
    memory_max=st.none() | st.integers(min_value=1),
    lost_because=st.text(),
)


@pytest.mark.parametrize("name", CASES)
def test_cause_from_evidence(name: str) -> None:
    """Each kind of end has one cause, told apart by the evidence."""
    seen, cause = CASES[name]
    assert cause_of(seen) == cause


def test_every_cause_is_decided_somewhere() -> None:
    """The table above has an example of every cause there is."""
    assert {type(cause) for _, cause in CASES.values()} == set(get_args(Cause))


@given(evidence)
def test_any_evidence_has_a_cause_and_words(seen: Evidence) -> None:
    """No combination of observations is without a cause, or with one that cannot be told."""
    cause = cause_of(seen)
    assert isinstance(cause, get_args(Cause))
    assert describe(cause)


@given(evidence)
def test_only_an_oom_kill_that_was_seen_is_out_of_memory(seen: Evidence) -> None:
    """Out of memory needs the OOM killer seen at work and a SIGKILL that the server had not sent."""
    cause = cause_of(seen)
    if isinstance(cause, OomKilled):
        assert seen.killed_for_memory
        assert cause.processes_killed == seen.oom_kills
        assert cause.memory_max == seen.memory_max
        assert isinstance(seen.death, Signalled)
        assert seen.death.signal == signal.SIGKILL
        assert not seen.killed


@given(evidence)
def test_nobody_is_blamed_without_an_order(seen: Evidence) -> None:
    """A job is stopped by the one who ordered it, and only if there was an order; what it returned is kept."""
    match cause_of(seen):
        case Stopped(by=by, exit_code=exit_code, killed=killed):
            assert seen.order is not None
            assert seen.order.by == by
            assert killed == seen.killed
            assert exit_code == (seen.death.code if isinstance(seen.death, Exited) else None)
        case ServerShutdown(exit_code=exit_code):
            assert seen.order is not None
            assert seen.order.by is None
            assert exit_code == (seen.death.code if isinstance(seen.death, Exited) else None)
        case OutputCapped(output_max=limit):
            assert seen.order is not None
            assert (seen.order.by, seen.order.for_output, limit) == (None, True, seen.output_max)
        case TimedOut(max_run_ms=limit, exit_code=exit_code, killed=killed):
            assert limit == seen.max_run_ms
            assert seen.died_of_warning if seen.order is None else seen.order.for_run_time
            assert killed == (seen.killed and seen.order is not None)
            assert exit_code == (seen.death.code if isinstance(seen.death, Exited) else None)
        case FailedToStart(reason):
            assert seen.never_executed == reason
        case ServerLost(reason):
            assert seen.death is None
            assert reason == seen.lost_because


@given(evidence)
def test_what_is_known_of_a_death_is_told(seen: Evidence) -> None:
    """A cause without an order is the death itself; a job whose death is not known claims none."""
    cause = cause_of(seen)
    if isinstance(cause, Exited | Signalled):
        assert cause == seen.death
        assert seen.order is None
    if seen.death is None:
        assert isinstance(cause, FailedToStart | ServerLost)


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (Exited(3), "exited with code 3"),
        (Signalled(9), "ended by signal 9 (killed)"),
        (Signalled(9, by="client1"), "ended by signal 9 (killed), sent by client1"),
        (Signalled(11, core_dumped=True), "ended by signal 11 (segmentation fault), core dumped"),
        (stopped(15), "stopped by client1 (terminated)"),
        (stopped(15, exit_code=0), "stopped by client1 (terminated, exited with code 0)"),
        (stopped(9, killed=True), "stopped by client1 (killed with all of its processes)"),
        (stopped(15, exit_code=3, killed=True), "stopped by client1 (killed with all of its processes)"),
        (
            OomKilled(memory_max=MIB, processes_killed=1),
            "out of memory: killed by the kernel, 1 process (its limit is 1048576 bytes)",
        ),
        (
            OomKilled(memory_max=None, processes_killed=2),
            "out of memory: killed by the kernel, 2 processes (it had no limit of its own)",
        ),
        (
            OomKilled(memory_max=MIB, processes_killed=2, limit_of=OomLimit.JOB),
            "out of memory: killed by the kernel, 2 processes (its limit is 1048576 bytes)",
        ),
        (
            OomKilled(memory_max=MIB, processes_killed=2, limit_of=OomLimit.CLIENT),
            "out of memory: killed by the kernel, 2 processes (for the limit of all its client's jobs; its limit is 1048576 bytes)",
        ),
        (
            OomKilled(memory_max=None, processes_killed=2, limit_of=OomLimit.JOBS),
            "out of memory: killed by the kernel, 2 processes (for the limit of all jobs of the server; it had no limit of its own)",
        ),
        (
            OomKilled(memory_max=None, processes_killed=1, limit_of=OomLimit.HOST),
            "out of memory: killed by the kernel, 1 process (for no limit of jobmaster's: memory was short on its host; it had no limit of its own)",
        ),
        (FailedToStart("no interpreter"), "failed to start: no interpreter"),
        (ServerShutdown(signal=15), "ended by the server's shutdown (terminated)"),
        (ServerShutdown(signal=15, exit_code=3), "ended by the server's shutdown (terminated, exited with code 3)"),
        (
            OutputCapped(output_max=MIB, signal=15),
            "ended because its output had 1048576 bytes, as many as are kept (terminated)",
        ),
        (
            TimedOut(max_run_ms=1500, signal=15, killed=False),
            "timed out: it may run for 1.5 s (terminated)",
        ),
        (
            TimedOut(max_run_ms=3_600_000, signal=15, exit_code=4, killed=False),
            "timed out: it may run for 3600 s (terminated, exited with code 4)",
        ),
        (
            TimedOut(max_run_ms=1, signal=9, killed=True),
            "timed out: it may run for 0.001 s (killed with all of its processes)",
        ),
        (ServerLost("the launcher was killed"), "lost by the server: the launcher was killed"),
    ],
)
def test_each_cause_in_words(cause: Cause, sentence: str) -> None:
    """A sentence tells people what happened."""
    assert describe(cause) == sentence


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (9, "killed"),
        (15, "terminated"),
        (2, "interrupt"),
        (11, "segmentation fault"),
        (6, "aborted"),
        (32, "signal 32"),
    ],
)
def test_signals_in_words(number: int, words: str) -> None:
    """A signal is told as shells tell it, in lower case; one without a name by its number."""
    assert signal_words(number) == words
