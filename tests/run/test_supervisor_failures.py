"""What keeps a job from its end: each has a deadline, and none keeps who waits from being released."""

from __future__ import annotations

import errno
from typing import Final

import pytest
import trio

from jobmaster.job.cause import (
    Exited,
    ServerLost,
    Stopped,
)
from jobmaster.job.state import Closing, Ended, Running
from jobmaster.output.pump import Pump
from jobmaster.run.supervisor import (
    CLOSING_SECONDS,
    MOST_SECONDS,
    OUTPUT_SECONDS,
    RELEASE_SECONDS,
    REMOVAL_SECONDS,
    RETRY_SECONDS,
    Supervisor,
)
from tests.run.conftest import (
    ALWAYS,
    GRACE_SECONDS,
    KILLED,
    SOON,
    Machine,
    cause_of_job,
    check_end,
    end_of,
    launched_of,
    scripted,
)
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.scripted import NEVER, Script, ScriptedExecution

# --- deadlines of the end ---------------------------------------------------------------------------------------------


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
    assert not supervisor.is_removed
    assert supervisor.record.output_bytes == 5000


async def test_a_child_that_cannot_be_killed(machine: Machine) -> None:
    """Where only another process can't be killed, the job ends as its main process ended."""
    script = Script(ends_at=1, death=Exited(3), others_end_at=NEVER, death_seconds=NEVER)
    supervisor = await machine.running(script)
    await check_end(supervisor, Exited(3), after=1 + CLOSING_SECONDS + REMOVAL_SECONDS)
    assert not supervisor.is_removed


@pytest.mark.parametrize(("busy", "is_removed"), [(REMOVAL_SECONDS / 2, True), (NEVER, False)])
async def test_a_cgroup_that_is_busy(machine: Machine, busy: float, is_removed: bool) -> None:
    """An empty cgroup that the kernel finds busy is tried for REMOVAL_SECONDS."""
    supervisor = await machine.running(Script(ends_at=1, busy_seconds=busy))
    await check_end(supervisor, Exited(0), after=1 + min(busy, REMOVAL_SECONDS))
    assert supervisor.is_removed == is_removed


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
    assert supervisor.is_removed


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
    script = Script(on_term=None, death_seconds=CLOSING_SECONDS - 1, busy_seconds=OUTPUT_SECONDS + REMOVAL_SECONDS / 2)
    supervisor = await machine.held(script, pump=ClosingPump, grace_seconds=0)

    async def close(_: ScriptedExecution) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(ScriptedExecution, "close", close)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, launched_of(supervisor.record))
        before = trio.current_time()
        supervisor.order_stop(None)
    took = CLOSING_SECONDS - 1 + OUTPUT_SECONDS + REMOVAL_SECONDS / 2 + RELEASE_SECONDS + OUTPUT_SECONDS
    assert trio.current_time() - before == pytest.approx(took, abs=SOON)
    assert took < MOST_SECONDS
    assert supervisor.is_removed
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == [
        "keeping the rest of its output",
        "closing its execution",
        "closing its output",
    ]


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_lost_launcher(machine: Machine) -> None:
    """Where nobody will learn how it dies, the job is killed and recorded as lost, with the reason."""
    supervisor = await machine.running(Script(lost_at=1, on_term=None, others_end_at=NEVER))
    await check_end(supervisor, ServerLost("nobody can tell how it died"), after=1)
    assert scripted(supervisor).truth.death == KILLED
    assert supervisor.is_removed


async def test_a_launcher_that_is_stopped(machine: Machine) -> None:
    """A main process that died of the stop, whose status is not told in time, is not said to have outlived SIGKILL."""
    supervisor = await machine.running(Script(status_never_comes=True))
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert cause == ServerLost("its main process died, but nobody told how")
    assert seconds == pytest.approx(GRACE_SECONDS + CLOSING_SECONDS, abs=SOON)
    assert supervisor.is_removed


@pytest.mark.parametrize("number", [None, errno.ECHILD])
async def test_a_death_that_cannot_be_waited_for(
    machine: Machine, caplog: pytest.LogCaptureFixture, number: int | None
) -> None:
    """An error of the host (ECHILD, where SIGCHLD was ignored) ends the job as lost, not as met by a bug."""
    machine.plan(Fault(point="wait_death", call=1, number=number))
    supervisor = await machine.running(Script(on_term=None))
    cause, _ = await end_of(supervisor)
    assert isinstance(cause, ServerLost)
    assert ("No child processes" if number else "scripted failure") in cause.reason
    assert [record for record in caplog.records if record.exc_info] == []
    assert supervisor.is_removed


@pytest.mark.parametrize("stop", [True, False])
async def test_a_withheld_status(machine: Machine, stop: bool) -> None:
    """A job whose status a tracer withholds ends for who waits, as soon as nothing of it lives."""
    supervisor = await machine.running(Script(ends_at=NEVER if stop else 1, status_is_withheld=True))
    if stop:
        supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert cause == ServerLost("nobody can tell how it died")
    assert seconds <= 1 + SOON
    assert supervisor.is_removed


async def test_a_bug_ends_the_job_and_is_told(machine: Machine) -> None:
    """An exception that nobody expects is raised, after the job was killed, its waiters released, its cause recorded."""
    supervisor = await machine.held(Script(bug=RuntimeError("a bug, scripted"), others_end_at=NEVER, death_seconds=3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_with_bug, supervisor)
        await trio.sleep(1)
        scripted(supervisor).end(Exited(0))
    assert cause_of_job(supervisor) == ServerLost("a bug in the server ended it")
    assert supervisor.is_removed, "its other processes were not waited for"
    assert scripted(supervisor).is_closed


async def _run_with_bug(supervisor: Supervisor) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="scripted"), flatten_subgroups=True):
        await supervisor.run(launched_of(supervisor.record))


class BuggyPump(Pump):
    """One that fails twice before it pumps."""

    failures = 0

    async def run(self) -> None:
        """Fails, or pumps."""
        BuggyPump.failures += 1
        if BuggyPump.failures <= 2:
            raise ZeroDivisionError("a bug, scripted")
        await super().run()


async def test_a_bug_in_the_pump_does_not_end_the_job(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, tried again after RETRY_SECONDS, and no byte is missing."""
    BuggyPump.failures = 0
    supervisor = await machine.running(Script(writes=((0, 5000), (1, 100))), pump=BuggyPump)
    await trio.sleep(2 * RETRY_SECONDS - 0.1)
    assert (supervisor.record.output_bytes, BuggyPump.failures) == (0, 2)
    await trio.sleep(0.2)
    assert isinstance(supervisor.record.state, Running)
    assert supervisor.record.output_bytes == 5100
    assert caplog.text.count("a bug in the output") == 2
    scripted(supervisor).end(Exited(0))
    await supervisor.wait_ended()


FAILING: Final = ("has_died", "signal_main", "signal_others", "kill", "is_populated", "oom_kills", "remove", "close")


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


async def test_each_failing_step_is_logged_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Of a step that fails again and again the first failure is logged, without a traceback where it is the host's."""
    supervisor = await machine.running(Script(ends_at=1, others_end_at=NEVER))
    machine.plan(Fault(point="is_populated", call=1, times=100, number=errno.EMFILE))
    await supervisor.wait_ended()
    complaints = [record for record in caplog.records if "looking for its processes" in record.message]
    assert len(complaints) == 1
    assert not complaints[0].exc_info


async def test_lost_output_is_recorded_at_once(machine: Machine) -> None:
    """That a disk does not take the output is recorded while the job runs, at first at once and then from time to time."""
    supervisor = await machine.held(Script(writes=((1, 1000), (2, 1000), (3, 1000), (100, 1000))))
    machine.plan(
        *(Fault(point=f"pump.{call}", call=1, times=ALWAYS, number=errno.ENOSPC) for call in ("splice", "pwrite"))
    )
    await machine.nursery.start(supervisor.run, launched_of(supervisor.record))
    counts = []
    for seconds in (1.5, 10, 200):
        await trio.sleep(seconds)
        counts.append(machine.records.jobs[supervisor.record.id].output_bytes_lost)
    assert counts == [1000, 3000, 4000]


async def test_losses_outlive_the_server(machine: Machine) -> None:
    """A server that dies after output was lost is followed by one that writes nothing behind the gap."""
    script = Script(writes=((1, 1000), (2, 1000), (5, 1000)), ends_at=10)
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.plan(
            Fault(point="pump.splice", call=2, number=errno.ENOSPC),
            Fault(point="pump.pwrite", call=1, number=errno.ENOSPC),
        )
        job_id = await machine.start(registry, CLIENT1, script)
        await trio.sleep(3)
        recorded = machine.records.jobs[job_id]
        await registry.hand_over()
    machine.records.jobs[job_id] = recorded  # as where the server was killed instead
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Exited(0)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (1000, 2000)


@pytest.mark.parametrize(("has_threads", "kept"), [(True, 1000), (False, 0)])
async def test_what_stays_in_the_pipe_is_counted_once(machine: Machine, has_threads: bool, kept: int) -> None:
    """A server that ends while it records an end leaves the rest of the pipe, uncounted, to the one that follows."""
    no_threads = Fault(point="pump thread", call=1, times=ALWAYS)
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.plan(no_threads)
        job_id = await machine.start(registry, CLIENT1, Script(writes=((1, 1000),), ends_at=2))
        machine.records.commit_seconds = 3600
        await trio.sleep(2 + OUTPUT_SECONDS)
        assert isinstance(machine.records.jobs[job_id].state, Closing)
        await registry.hand_over()
    machine.records.commit_seconds = 0
    machine.plan(*(() if has_threads else (no_threads,)))
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Exited(0)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (kept, 1000 - kept)
