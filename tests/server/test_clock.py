"""What a server tells after it was suspended, on a real time that jumps where a test says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.output.pump import Pump
from jobmaster.output.transfer import Transfer
from jobmaster.run.child import Child
from jobmaster.run.supervisor import EXECUTE_SECONDS
from jobmaster.run.teardown import CLOSING_SECONDS, OUTPUT_SECONDS, Teardown
from jobmaster.server.clock import LATE_SECONDS, SHORT_SECONDS, TOLD_SECONDS, RunningTimeClock
from tests.harness import Server, ended, output_of

PAUSE: Final = 100.0
SIZE: Final = 400_000


class RealTime:
    """A real time, and what is added to it."""

    def __init__(self, source: Callable[[], float] = lambda: 0.0) -> None:
        self._source = source
        self.added = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self._source() + self.added


def started_clock() -> tuple[RunningTimeClock, RealTime]:
    """A clock at 0, and a real time that stands still."""
    real_time = RealTime()
    clock = RunningTimeClock(real_time)
    clock.start_clock()
    return clock, real_time


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elapsed", [0.0, 0.001, LATE_SECONDS])
def test_time_counts(elapsed: float) -> None:
    """Time passes as it really does while the loop is not late, asleep as well."""
    clock, real_time = started_clock()
    real_time.added += elapsed
    assert clock.current_time() == pytest.approx(elapsed)
    planned = clock.deadline_to_sleep_time(elapsed + 30.0)
    real_time.added += planned + elapsed
    assert clock.current_time() == pytest.approx(elapsed + planned + elapsed)


@pytest.mark.parametrize("left", [SHORT_SECONDS / 2, SHORT_SECONDS, 30.0])
def test_a_suspension_does_not_count(left: float) -> None:
    """After a sleep that lasted longer than it was to, half of the time to the deadline is left, whenever it began."""
    clock, real_time = started_clock()
    clock.deadline_to_sleep_time(left)
    real_time.added += left + PAUSE
    assert clock.current_time() == left / 2
    real_time.added += PAUSE
    assert clock.current_time() <= left / 2 + LATE_SECONDS


@given(left=st.floats(2 * SHORT_SECONDS, 1e6), part=st.floats(0.0, 1.0))
def test_a_suspension_that_ends_before_a_deadline(left: float, part: float) -> None:
    """However much of the time to a deadline a suspension takes, a good part of that time is left after it."""
    clock, real_time = started_clock()
    clock.deadline_to_sleep_time(left)
    real_time.added += part * left
    assert clock.current_time() <= left / 2 + LATE_SECONDS


def test_a_deadline_passes_on_a_host_that_is_always_late() -> None:
    """Of delays without a break every second counts, so that each deadline passes in the end."""
    clock, real_time = started_clock()
    rounds = 0
    while clock.deadline_to_sleep_time(10.0) > 0.0:
        real_time.added += PAUSE
        rounds += 1
    assert rounds <= 2 * 10.0 / LATE_SECONDS


@pytest.mark.parametrize("left", [10.0, 60.0, 300.0])
def test_a_deadline_is_no_later_than_the_delays(left: float) -> None:
    """Where each of few wake-ups is late, a deadline is so by their delays, and not by what the loop slept before them."""
    clock, real_time = started_clock()
    delay = 1.2 * LATE_SECONDS
    while planned := clock.deadline_to_sleep_time(left):
        real_time.added += planned + delay
    assert real_time() <= left + 20 * delay


def test_no_deadline_is_no_time_to_wake() -> None:
    """A loop without a deadline sleeps as long as nothing comes."""
    clock, real_time = started_clock()
    assert clock.deadline_to_sleep_time(float("inf")) == float("inf")
    real_time.added += PAUSE
    assert clock.current_time() == PAUSE


def test_the_operator_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A long delay is told, with its length; a short one is not."""
    clock, real_time = started_clock()
    for delay in (TOLD_SECONDS - 1, TOLD_SECONDS + 1):
        real_time.added += delay
        clock.current_time()
    assert [record.getMessage() for record in caplog.records] == [
        "the server did not run for 6.0 s, which delays its deadlines"
    ]


# --- a server that is suspended ---------------------------------------------------------------------------------------


@pytest.fixture
def real_time() -> RealTime:
    """What the server takes for the real time."""
    return RealTime(time.monotonic)


@pytest.fixture
def clock(real_time: RealTime) -> RunningTimeClock:
    """The server's clock, and the whole test's."""
    return RunningTimeClock(real_time)


def suspended_after(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, real_time: RealTime, seconds: float
) -> None:
    """Suspends the server once, right after the first call of a method."""
    original = getattr(owner, name)

    def call(*args: Any) -> Any:
        monkeypatch.undo()
        result = original(*args)
        real_time.added += seconds
        return result

    monkeypatch.setattr(owner, name, call)


async def test_a_suspension_after_a_kill(
    clock: RunningTimeClock, real_time: RealTime, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was killed before a long suspension is told to have been stopped, as it was, and not as lost."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        suspended_after(monkeypatch, Teardown, "_kill_again", real_time, CLOSING_SECONDS + 1)
        stopped = await jobs.stop(job_id, force=True)
    assert stopped.cause.WhichOneof("kind") == "stopped"


async def test_a_suspension_after_the_go_byte(
    clock: RunningTimeClock, real_time: RealTime, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was executed during a long suspension is a job, and no error."""
    async with server.connect() as jobs:
        suspended_after(monkeypatch, Child, "go", real_time, EXECUTE_SECONDS + 1)
        record = await ended(jobs, await jobs.start("sh", "-c", "exit 3"))
    assert record.exit_code == 3


async def test_a_suspension_while_the_rest_of_an_output_is_kept(
    clock: RunningTimeClock, real_time: RealTime, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte is lost of an output whose last move was under way during a long suspension."""
    async with server.connect() as jobs:
        move = Transfer.run

        def slow(transfer: Transfer, waiting: int) -> Any:
            trio.from_thread.run_sync(suspend)
            return move(transfer, waiting)

        def suspend() -> None:
            real_time.added += OUTPUT_SECONDS + 1

        async def finish(pump: Pump) -> None:
            monkeypatch.setattr(Transfer, "run", slow)
            await original(pump)

        original = Pump.finish
        monkeypatch.setattr(Pump, "finish", finish)
        job_id = await jobs.start("sh", "-c", f"head -c {SIZE} /dev/zero")
        assert len(await output_of(jobs, job_id)) == SIZE
        record = await jobs.status(job_id)
    assert (record.output_bytes, record.output_bytes_lost) == (SIZE, 0)
