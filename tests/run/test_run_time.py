"""How a job is warned, and ended, when it has run for as long as it may."""

from __future__ import annotations

import errno
import signal
from datetime import UTC, datetime

import pytest
import trio

from jobmaster.errors import JobNotRunning
from jobmaster.job.cause import Exited, ServerLost, Signalled, StopOrder, Stopped, TimedOut
from jobmaster.job.record import Paused
from jobmaster.job.run_time import RunTime
from jobmaster.job.state import RunTimeWarned
from jobmaster.run.run_time import LOOK_SECONDS, WARNING_SECONDS
from jobmaster.run.supervisor import Supervisor
from tests.run.conftest import ALWAYS, GRACE_SECONDS, SOON, Machine, check_end, end_of, launched_of, scripted
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.scripted import NEVER, OnTerm, Script

USR1 = int(signal.SIGUSR1)
TEN = RunTime(max_ms=10_000)
WARNED = RunTime(max_ms=10_000, warn_before_ms=4_000, warn_signal=USR1)


def timed_out(number: int, *, exit_code: int | None = None, killed: bool = False) -> TimedOut:
    """The end of a job that may run for ten seconds."""
    return TimedOut(max_run_ms=10_000, signal=number, exit_code=exit_code, killed=killed)


async def test_a_job_whose_time_is_over(machine: Machine) -> None:
    """It gets SIGTERM then, not before, and what it returns is kept; one that ignores it is killed after the grace period."""
    for on_term, cause, after in (
        (OnTerm(), timed_out(15), 10),
        (OnTerm(death=Exited(3), after=1), timed_out(15, exit_code=3), 11),
        (None, timed_out(9, killed=True), 10 + GRACE_SECONDS),
    ):
        supervisor = await machine.running(Script(on_term=on_term), run_time=TEN)
        await check_end(supervisor, cause, after=after)
        assert scripted(supervisor).truth.warnings == []


async def test_a_job_that_ends_in_time(machine: Machine) -> None:
    """It has ended as it did, and nothing is sent to it later."""
    supervisor = await machine.running(Script(ends_at=9.9, death=Exited(3)), run_time=WARNED)
    await check_end(supervisor, Exited(3), after=9.9)
    await trio.sleep(20)
    assert scripted(supervisor).truth.terms == []


async def test_a_warning(machine: Machine) -> None:
    """The main process gets the signal once, so long before, and the journal knows of it before."""
    supervisor = await machine.running(Script(), run_time=WARNED)
    await trio.sleep(5.9)
    assert scripted(supervisor).truth.warnings == []
    await trio.sleep(0.2)
    assert scripted(supervisor).truth.warnings == [USR1]
    assert (supervisor.job_id, RunTimeWarned(signal=USR1)) in machine.records.written
    await check_end(supervisor, timed_out(15), after=3.9)
    assert scripted(supervisor).truth.warnings == [USR1]


async def test_a_job_that_dies_of_its_warning(machine: Machine) -> None:
    """It has timed out, by that signal; the same signal before the warning is somebody else's."""
    dies = OnTerm(death=Signalled(USR1))
    supervisor = await machine.running(Script(on_warning=dies), run_time=WARNED)
    await check_end(supervisor, timed_out(USR1), after=6)
    supervisor = await machine.running(Script(ends_at=5, death=Signalled(USR1)), run_time=WARNED)
    await check_end(supervisor, Signalled(USR1), after=5)


async def test_a_journal_that_does_not_answer(machine: Machine) -> None:
    """It delays a warning for a moment, and the end not at all."""
    supervisor = await machine.running(Script(), run_time=WARNED)
    machine.records.settle_seconds = NEVER
    await trio.sleep(6 + WARNING_SECONDS - SOON)
    assert scripted(supervisor).truth.warnings == []
    await trio.sleep(2 * SOON)
    assert scripted(supervisor).truth.warnings == [USR1]
    await check_end(supervisor, timed_out(15), after=4 - WARNING_SECONDS - SOON)


async def test_a_stop_before_its_time_is_over(machine: Machine) -> None:
    """Who asked first has ended it, also where its time is over in the grace period; it is not warned any more."""
    supervisor = await machine.running(Script(on_term=OnTerm(death=Exited(0), after=4)), run_time=WARNED)
    await trio.sleep(5.5)
    supervisor.order_stop("client2")
    await trio.sleep(3)
    assert scripted(supervisor).truth.warnings == []
    cause = (await end_of(supervisor))[0]
    assert isinstance(cause, Stopped)
    assert (cause.by, cause.exit_code) == ("client2", 0)


async def test_a_stop_after_its_time_is_over(machine: Machine) -> None:
    """One that comes in the grace period changes nothing but, by force, how long that is."""
    supervisor = await machine.running(Script(on_term=None), run_time=TEN)
    await trio.sleep(11)
    supervisor.order_stop("client2", force=True)
    await check_end(supervisor, timed_out(9, killed=True), after=0)


async def test_time_that_passes_on_a_suspended_host(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts, though the event loop's clock stands still: the next look tells."""
    supervisor = await machine.running(Script(), run_time=RunTime(max_ms=3_600_000))
    await trio.sleep(1)
    scripted(supervisor).made_at -= 3_600
    cause, after = await end_of(supervisor)
    assert isinstance(cause, TimedOut)
    assert after <= LOOK_SECONDS


async def test_a_job_that_is_executed_late(machine: Machine) -> None:
    """One whose command is executed when its time is over already is ended at once, and not warned."""
    supervisor = await machine.held(
        Script(execute_seconds=5), run_time=RunTime(max_ms=100, warn_before_ms=50, warn_signal=USR1)
    )
    machine.nursery.start_soon(supervisor.run, launched_of(supervisor.record))
    cause, after = await end_of(supervisor)
    assert cause == TimedOut(max_run_ms=100, signal=15, killed=False)
    assert after == pytest.approx(5, abs=SOON)
    assert scripted(supervisor).truth.warnings == []


@pytest.mark.parametrize(("gap", "warnings", "after"), [(1, [USR1], 9), (7, [USR1], 3), (12, [], 0), (10_000, [], 0)])
async def test_a_server_that_follows(machine: Machine, gap: float, warnings: list[int], after: float) -> None:
    """It goes on with the time that has passed without a server: what was due meanwhile it does at once, a late warning too."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=WARNED)
        await registry.hand_over()
    await trio.sleep(gap)
    async with machine.registry() as registry:
        await registry.recover()
        before = trio.current_time()
        cause = await ended(registry, job_id)
        assert cause == timed_out(15)
        assert trio.current_time() - before == pytest.approx(after, abs=SOON)
    assert machine.execution(job_id).truth.warnings == warnings


async def test_a_server_that_follows_does_not_warn_again(machine: Machine) -> None:
    """A job that one server has warned dies of that when another one is there: it has timed out all the same."""
    async with machine.registry(hands_over=lambda: True) as registry:
        script = Script(on_warning=OnTerm(death=Signalled(USR1), after=2))
        job_id = await machine.start(registry, CLIENT1, script, run_time=WARNED)
        await trio.sleep(6.5)
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == timed_out(USR1)
    assert machine.execution(job_id).truth.warnings == [USR1]


async def test_a_hand_over_while_a_warning_is_recorded(machine: Machine) -> None:
    """A job that is recorded as warned is warned, though the server has no time to see that the record is durable."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=WARNED)
        machine.records.settle_seconds = WARNING_SECONDS / 2
        await trio.sleep(6 + WARNING_SECONDS / 4)
        assert machine.execution(job_id).truth.warnings == []
        await registry.hand_over()
    machine.records.settle_seconds = 0
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == timed_out(15)
    assert machine.execution(job_id).truth.warnings == [USR1]


async def test_a_job_that_died_of_its_warning_and_cannot_be_adopted(machine: Machine) -> None:
    """What the launcher has kept of its end is told as that of a job whose time was over."""
    async with machine.registry(hands_over=lambda: True) as registry:
        script = Script(on_warning=OnTerm(death=Signalled(USR1), after=2))
        job_id = await machine.start(registry, CLIENT1, script, run_time=WARNED)
        await trio.sleep(7)
        await registry.hand_over()
    await trio.sleep(5)
    machine.plan(Fault(point="adopt", call=1, times=ALWAYS, number=errno.EIO))
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == timed_out(USR1)


async def test_a_paused_job(machine: Machine) -> None:
    """Its time stands still in each pause: it is warned, and ended, when it has run for so long."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=WARNED)
        truth = machine.execution(job_id).truth
        for runs, warnings in ((5, []), (0.5, []), (2, [USR1])):
            await trio.sleep(runs)
            await registry.pause(CLIENT1, job_id)
            await trio.sleep(3_000)
            assert truth.warnings == warnings
            assert not (await registry.resume(CLIENT1, job_id)).paused
        before = trio.current_time()
        assert await ended(registry, job_id) == timed_out(15)
        assert trio.current_time() - before == pytest.approx(2.5, abs=SOON)
        assert record_of(registry, job_id).paused_for == pytest.approx(9_000e6, abs=1e4)


async def test_a_paused_job_that_is_lost(machine: Machine) -> None:
    """Where nobody is told how it died while it was paused, the record has this pause all the same."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=9, status_is_withheld=True), run_time=TEN)
        await trio.sleep(4)
        await registry.pause(CLIENT1, job_id)
        assert isinstance(await ended(registry, job_id), ServerLost)
        assert record_of(registry, job_id).paused_for == pytest.approx(5e6, abs=1e4)


async def test_a_pause_when_the_time_is_over(machine: Machine) -> None:
    """Who is first in that instant counts: the job is ended, or its time stands still and is over as soon as it goes on."""
    for ahead, is_ended in ((-SOON, True), (SOON, False)):
        async with machine.registry() as registry:
            job_id = await machine.start(registry, CLIENT1, Script(), run_time=TEN)
            execution = machine.execution(job_id)
            await trio.sleep(10 - ahead)
            if is_ended:
                with pytest.raises(JobNotRunning):
                    await registry.pause(CLIENT1, job_id)
                assert await ended(registry, job_id) == timed_out(15)
                continue
            await registry.pause(CLIENT1, job_id)
            await trio.sleep(100)
            assert execution.truth.terms == []
            await registry.resume(CLIENT1, job_id)
            await trio.sleep(2 * SOON)
            assert len(execution.truth.terms) == 1


async def test_a_pause_that_comes_too_late(machine: Machine) -> None:
    """A job whose time was over before it was paused, which nobody had seen yet, is ended and goes on for that."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=TEN)
        await trio.sleep(1)
        machine.execution(job_id).made_at -= 20
        await registry.pause(CLIENT1, job_id)
        assert await ended(registry, job_id) == timed_out(15)
        assert not machine.execution(job_id).is_frozen


@pytest.mark.parametrize("resumes", ["before", "after"])
async def test_a_pause_over_servers(machine: Machine, resumes: str) -> None:
    """It goes on where no server is there, and over several of them; whoever resumes the job knows since when it was paused."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=TEN)
        await trio.sleep(4)
        await registry.pause(CLIENT1, job_id)
        await trio.sleep(1_000)
        if resumes == "before":
            await registry.resume(CLIENT1, job_id)
        await registry.hand_over()
    for _ in range(2):
        await trio.sleep(1 if resumes == "before" else 1_000)
        async with machine.registry(hands_over=lambda: True) as registry:
            await registry.recover()
            await trio.sleep(1 if resumes == "before" else 1_000)
            await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        if resumes == "after":
            await registry.resume(CLIENT1, job_id)
        before = trio.current_time()
        assert await ended(registry, job_id) == timed_out(15)
        assert trio.current_time() - before == pytest.approx(2 if resumes == "before" else 6, abs=SOON)


async def test_a_pause_of_an_older_server(machine: Machine) -> None:
    """It did not say how old the job was: the pause counts as any time, and the next one does not."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(), run_time=TEN)
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job._record.apply(Paused(by="client1", at=datetime.now(UTC)))
        await trio.sleep(3)
        await registry.resume(CLIENT1, job_id)
        await registry.pause(CLIENT1, job_id)
        await trio.sleep(100)
        await registry.resume(CLIENT1, job_id)
        before = trio.current_time()
        assert await ended(registry, job_id) == timed_out(15)
        assert trio.current_time() - before == pytest.approx(7, abs=SOON)


async def test_a_server_that_dies_between_order_and_signal(machine: Machine) -> None:
    """The order that it has noted is carried out by the next one, and the cause is the job's time."""
    supervisor = await machine.held(Script(on_term=OnTerm(after=1)), run_time=TEN)
    scripted(supervisor)._begin()
    supervisor._record.note_executed()
    order = StopOrder(by=None, requested_at=datetime.now(UTC), for_run_time=True)
    machine.nursery.start_soon(supervisor.resume, order)
    await check_end(supervisor, timed_out(15), after=1)


async def test_a_signal_that_cannot_be_sent(machine: Machine) -> None:
    """A host that fails to warn a job is complained of, and the job is ended in time."""
    supervisor = await machine.running(Script(), run_time=WARNED)
    machine.plan(Fault(point="signal_main", call=1))
    await check_end(supervisor, timed_out(15), after=10)
