"""What keeps a job from its end: each has a deadline, and none keeps who waits from being released."""

from __future__ import annotations

import errno
from typing import Final

import pytest
import trio

from jobmaster.job.cause import Exited, OomKilled, ServerLost, Stopped
from jobmaster.job.state import Closing, Ended
from jobmaster.output.pump import Pump
from jobmaster.run.teardown import (
    CLOSING_SECONDS,
    MOST_SECONDS,
    OUTPUT_SECONDS,
    RECORD_SECONDS,
    RELEASE_SECONDS,
    REMOVAL_SECONDS,
    USAGE_SECONDS,
)
from tests.run.conftest import (
    ALWAYS,
    GRACE_SECONDS,
    SOON,
    Machine,
    cause_of_job,
    check_end,
    end_of,
    launched_of,
    scripted,
)
from tests.run.faults import Fault
from tests.run.scripted import NEVER, Script, ScriptedExecution


async def test_a_process_that_cannot_be_killed(machine: Machine) -> None:
    """A main process in uninterruptible sleep is waited for CLOSING_SECONDS; then who waits is released, truthfully."""
    supervisor = await machine.running(Script(death_seconds=NEVER, writes=((0, 5000),)))
    supervisor.order_stop(None)
    cause, seconds = await end_of(supervisor)
    assert seconds == pytest.approx(0, abs=SOON)  # it acted on SIGTERM
    supervisor = await machine.running(Script(death_seconds=NEVER, on_term=None, writes=((0, 5000),)))
    supervisor.order_stop(None)
    cause, seconds = await end_of(supervisor)
    assert cause == ServerLost("its main process did not die when it was killed")
    assert seconds == pytest.approx(GRACE_SECONDS + CLOSING_SECONDS + REMOVAL_SECONDS, abs=SOON)
    assert not supervisor.leaves_nothing
    assert supervisor.record.output_bytes == 5000


async def test_a_child_that_cannot_be_killed(machine: Machine) -> None:
    """Where only another process can't be killed, the job ends as its main process ended."""
    script = Script(ends_at=1, death=Exited(3), others_end_at=NEVER, death_seconds=NEVER)
    supervisor = await machine.running(script)
    await check_end(supervisor, Exited(3), after=1 + CLOSING_SECONDS + REMOVAL_SECONDS)
    assert not supervisor.leaves_nothing


@pytest.mark.parametrize(("seconds", "times"), [(1.0, []), (3.0, [1]), (5.0, [1, 2]), (NEVER, [1, 2, 3])])
async def test_processes_that_take_long_to_die(machine: Machine, seconds: float, times: list[int]) -> None:
    """What may hold them in the kernel is told to let go, again and again; never where they die soon."""
    supervisor = await machine.running(Script(ends_at=1, others_end_at=NEVER, death_seconds=seconds))
    await end_of(supervisor)
    assert scripted(supervisor).said_stuck == times


@pytest.mark.parametrize(("busy", "is_removed"), [(REMOVAL_SECONDS / 2, True), (NEVER, False)])
async def test_a_cgroup_that_is_busy(machine: Machine, busy: float, is_removed: bool) -> None:
    """An empty cgroup that the kernel finds busy is tried for REMOVAL_SECONDS."""
    supervisor = await machine.running(Script(ends_at=1, busy_seconds=busy))
    await check_end(supervisor, Exited(0), after=1 + min(busy, REMOVAL_SECONDS))
    assert supervisor.leaves_nothing == is_removed


class StuckPump(Pump):
    """One whose end never comes."""

    async def finish(self) -> None:
        """Does not return; gives back what it holds."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 100):
                await super().finish()


async def test_output_has_a_deadline(machine: Machine) -> None:
    """A pump that does not come to its end holds up the job's for OUTPUT_SECONDS."""
    supervisor = await machine.running(Script(ends_at=1), pump=StuckPump)
    await check_end(supervisor, Exited(0), after=1 + OUTPUT_SECONDS)
    assert supervisor.leaves_nothing


async def test_all_deadlines_together(machine: Machine) -> None:
    """However much fails, a job has ended MOST_SECONDS after it began to be closed."""
    supervisor = await machine.running(Script(death_seconds=NEVER, on_term=None), pump=StuckPump, grace_seconds=0)
    supervisor.order_stop(None)
    cause, seconds = await end_of(supervisor)
    assert isinstance(cause, ServerLost)
    assert seconds <= MOST_SECONDS


class ClosingPump(StuckPump):
    """One whose end never comes, and whose close neither."""

    async def close(self) -> None:
        """Does not return; closes what it holds."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 100):
                await super().close()


async def test_each_step_has_its_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where each step takes as long as it may, each has that time, the last one too; those that were cut off are told."""
    busy = OUTPUT_SECONDS + USAGE_SECONDS / 2 + REMOVAL_SECONDS / 2
    script = Script(on_term=None, death_seconds=CLOSING_SECONDS - 1, usage_seconds=USAGE_SECONDS / 2, busy_seconds=busy)
    supervisor = await machine.held(script, pump=ClosingPump, grace_seconds=0)

    async def close(_: ScriptedExecution) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(ScriptedExecution, "close", close)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, launched_of(supervisor.record))
        before = trio.current_time()
        supervisor.order_stop(None)
    took = CLOSING_SECONDS - 1 + busy + RELEASE_SECONDS + OUTPUT_SECONDS
    assert trio.current_time() - before == pytest.approx(took, abs=SOON)
    assert took < MOST_SECONDS
    assert supervisor.leaves_nothing
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == [
        "keeping the rest of its output",
        "closing its execution",
        "closing its output",
    ]


FAILING: Final = (
    *("has_died", "signal_main", "signal_others", "kill", "is_populated", "oom_kills", "limits_met", "usage"),
    *("lift_limits", "remove"),
    "close",
)


@pytest.mark.parametrize("point", FAILING)
@pytest.mark.parametrize("number", [None, errno.EMFILE])
async def test_a_step_that_always_fails(machine: Machine, point: str, number: int | None) -> None:
    """Whatever of the host fails for good, the job ends for who waits, its output is counted, its pipe closed."""
    supervisor = await machine.running(Script(on_term=None, writes=((0, 5000),)))
    await trio.sleep(1)
    machine.plan(Fault(point=point, call=1, times=ALWAYS, number=number))
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert seconds <= GRACE_SECONDS + MOST_SECONDS
    assert isinstance(cause, ServerLost if point == "kill" else Stopped)
    assert (supervisor.record.output_bytes, supervisor.record.output_bytes_lost) == (5000, 0)
    assert isinstance(supervisor.record.state, Ended)


async def test_the_witness_of_an_oom_kill_stays_until_it_is_recorded(machine: Machine) -> None:
    """A cgroup that counted kills is removed when the journal has them, or does not answer in time."""
    machine.records.posts_wait = True
    supervisor = await machine.running(Script(killed_for_memory_at=1))
    execution = machine.execution(supervisor.record.id)
    machine.records.settle_seconds = 5
    await trio.sleep(4)
    has_died = isinstance(supervisor.record.state, Closing)
    assert (has_died, execution.is_removed) == (True, False)
    await trio.sleep(4)
    assert execution.is_removed
    assert isinstance(cause_of_job(supervisor), OomKilled)


@pytest.mark.parametrize("script", [Script(killed_for_memory_at=1), Script(ends_at=1)], ids=["killed", "returned"])
async def test_a_journal_that_does_not_answer_delays_what_needs_it_alone(machine: Machine, script: Script) -> None:
    """The removal of a cgroup waits for a bounded time, and where nothing was counted, not at all."""
    supervisor = await machine.running(script)
    machine.records.settle_seconds = 1e9
    await supervisor.wait_ended()
    expected = 1 + (RECORD_SECONDS if script.killed_for_memory_at == 1 else 0)
    assert trio.current_time() == pytest.approx(expected, abs=1)
    assert machine.execution(supervisor.record.id).is_removed


async def test_limits_are_lifted_before_the_removal(machine: Machine) -> None:
    """What the job has written may go to the disk as fast as that can, before its cgroup is removed."""
    supervisor = await machine.running(Script(ends_at=1))
    execution = machine.execution(supervisor.record.id)
    await end_of(supervisor)
    assert execution.is_removed
    assert execution.lifted == 1


async def test_limits_of_what_does_not_die_are_lifted(machine: Machine) -> None:
    """Processes that were killed and are still there get all that they need to die, again and again."""
    supervisor = await machine.running(Script(on_term=None, death_seconds=2.0))
    execution = machine.execution(supervisor.record.id)
    supervisor.order_stop("client1", force=True)
    await end_of(supervisor)
    assert execution.lifted > 2


async def test_a_cgroup_whose_limits_cannot_be_lifted(machine: Machine) -> None:
    """It is not removed, for its limits would outlast it, and is tried again later; who waits for the job is not held up."""
    supervisor = await machine.running(Script(ends_at=1))
    machine.plan(Fault(point="lift_limits", call=1, times=ALWAYS, number=errno.EMFILE))
    await end_of(supervisor)
    assert not machine.execution(supervisor.record.id).is_removed
    assert not supervisor.leaves_nothing


async def test_a_disk_that_holds_up_the_lifting_holds_up_no_kill(machine: Machine) -> None:
    """Processes that are stuck are killed and freed all the same, while the limits are not lifted."""
    supervisor = await machine.running(Script(on_term=None, death_seconds=NEVER, lifting_hangs=True))
    execution = machine.execution(supervisor.record.id)
    supervisor.order_stop("client1", force=True)
    await end_of(supervisor)
    assert execution.said_stuck == [1, 2, 3]
    assert not execution.is_removed
