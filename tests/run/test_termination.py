"""How a job is stopped: orders, signals and the grace period, also where the server that was asked has died."""

from __future__ import annotations

import errno
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import CommandNotRunnable, JobmasterError
from jobmaster.job.cause import Exited, FailedToStart, ServerLost, ServerShutdown, Signalled, StopOrder, Stopped
from jobmaster.job.record import JobEvent
from jobmaster.job.state import Closing, Ended, Executed, Held, KillSent, Running, StopOrdered, Stopping, StopSignalled
from jobmaster.job.stop_terms import StopTerms
from jobmaster.run.registry import Registry
from jobmaster.run.supervisor import Supervisor, Terms
from jobmaster.run.termination import rest_of_grace
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
    stopped_as,
)
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, ended, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import NEVER, OnTerm, Script


async def test_a_stop_by_sigterm(machine: Machine) -> None:
    """A job that SIGTERM ends is stopped by who asked, and has ended as soon as it died."""
    supervisor = await machine.running(Script(on_term=OnTerm(after=0.5), others_end_at=NEVER))
    supervisor.order_stop("client2")
    assert isinstance(supervisor.record.state, Stopping)
    cause, seconds = await end_of(supervisor)
    assert stopped_as(cause) == ("client2", signal.SIGTERM, None, False)
    assert seconds == pytest.approx(0.5, abs=SOON)


async def test_a_stop_that_the_job_handles(machine: Machine) -> None:
    """A job that handles SIGTERM and returns keeps its code."""
    supervisor = await machine.running(Script(on_term=OnTerm(death=Exited(7), after=2)))
    supervisor.order_stop("client1")
    assert stopped_as((await end_of(supervisor))[0]) == ("client1", signal.SIGTERM, 7, False)


async def test_a_stop_has_a_grace_period(machine: Machine) -> None:
    """A job that ignores SIGTERM is killed when the grace period is over, not before."""
    supervisor = await machine.running(Script(on_term=None, others_end_at=NEVER, others_ignore_term=True))
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert stopped_as(cause) == ("client1", signal.SIGKILL, None, True)
    assert seconds == pytest.approx(GRACE_SECONDS, abs=SOON)


async def test_other_processes_have_the_grace_period_too(machine: Machine) -> None:
    """When a stop has ended the main process, the others have the rest of the grace period, and no more."""
    for others_end_at, ended_after in ((3.0, 3.0), (NEVER, GRACE_SECONDS)):
        script = Script(others_end_at=others_end_at, others_ignore_term=True)
        supervisor = await machine.running(script)
        supervisor.order_stop("client1")
        await wait_all_tasks_blocked()
        assert isinstance(supervisor.record.state, Closing)
        cause, seconds = await end_of(supervisor)
        assert stopped_as(cause) == ("client1", signal.SIGTERM, None, False)
        assert seconds == pytest.approx(ended_after, abs=SOON)


async def test_hurry_ends_the_grace_period(machine: Machine) -> None:
    """A job that is being stopped is killed at once when there is no more patience; one told before, at its stop."""
    supervisor = await machine.running(Script(on_term=None))
    supervisor.order_stop(None)
    await trio.sleep(1)
    supervisor.hurry()
    await check_end(supervisor, ServerShutdown(signal=signal.SIGKILL), after=0)
    supervisor = await machine.running(Script(on_term=None))
    supervisor.hurry()
    await trio.sleep(1)
    assert isinstance(supervisor.record.state, Running)
    supervisor.order_stop(None)
    await check_end(supervisor, ServerShutdown(signal=signal.SIGKILL), after=0)


async def test_the_first_order_counts(machine: Machine) -> None:
    """The main process gets SIGTERM once, and the cause names who asked first."""
    supervisor = await machine.running(Script(on_term=None))
    for by in ("client2", "client1", None):
        supervisor.order_stop(by)
    assert stopped_as((await end_of(supervisor))[0]) == ("client2", signal.SIGKILL, None, True)
    assert len(scripted(supervisor).truth.terms) == 1


async def test_a_process_that_is_stopped_is_continued(machine: Machine) -> None:
    """A process in state T handles SIGTERM because SIGCONT follows."""
    supervisor = await machine.running(Script(is_stopped=True, on_term=OnTerm(death=Exited(5), after=1)))
    supervisor.order_stop("client1")
    assert stopped_as((await end_of(supervisor))[0]) == ("client1", signal.SIGTERM, 5, False)


@pytest.mark.parametrize("by", ["client1", None])
async def test_who_died_before_the_order_was_not_stopped(machine: Machine, by: str | None) -> None:
    """An order that comes when the main process is a zombie changes nothing, and sends it nothing."""
    supervisor = await machine.running(Script())
    scripted(supervisor).end(Exited(3))
    supervisor.order_stop(by)
    assert (await end_of(supervisor))[0] == Exited(3)
    assert scripted(supervisor).truth.terms == []


@pytest.mark.parametrize("death", [Exited(3), Signalled(signal.SIGSEGV), KILLED])
async def test_who_died_between_order_and_signal_was_not_stopped(machine: Machine, death: Exited | Signalled) -> None:
    """A job that ends by itself in the instant before the stop's signal keeps its own end."""
    supervisor = await machine.running(Script(dies_before_signal=True, death=death))
    supervisor.order_stop("client1")
    assert (await end_of(supervisor))[0] == death


async def test_who_handles_the_signal_at_once_was_stopped(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A main process that has handled SIGTERM and returned before the server looks again was stopped, and says so."""
    supervisor = await machine.running(Script(on_term=None))
    execution = scripted(supervisor)
    send = execution.signal_main

    def send_and_return(number: int) -> bool:
        lived = send(number)
        execution.end(Exited(7))
        return lived

    monkeypatch.setattr(execution, "signal_main", send_and_return)
    supervisor.order_stop("client1")
    assert stopped_as((await end_of(supervisor))[0]) == ("client1", signal.SIGTERM, 7, False)


async def test_an_order_after_the_end_changes_nothing(machine: Machine) -> None:
    """An ended job stays as it ended."""
    supervisor = await machine.running(Script(ends_at=1))
    await supervisor.wait_ended()
    record = supervisor.record
    supervisor.order_stop("client1")
    supervisor.hurry()
    assert supervisor.record == record


async def test_a_signal_that_was_not_sent_stopped_nobody(machine: Machine) -> None:
    """Where SIGTERM can't be sent, a job that then ends by itself within the grace period keeps its own end."""
    supervisor = await machine.running(Script(ends_at=1, death=Exited(3)))
    machine.plan(Fault(point="signal_main", call=1, times=ALWAYS, number=errno.EPERM))
    supervisor.order_stop("client1")
    assert (await end_of(supervisor))[0] == Exited(3)


async def test_the_grace_period_does_not_wait_for_the_signals(machine: Machine) -> None:
    """Where signals to the other processes are held up, the kill comes when it should."""
    supervisor = await machine.running(Script(on_term=None, signalling_hangs=True))
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert stopped_as(cause) == ("client1", signal.SIGKILL, None, True)
    assert seconds == pytest.approx(GRACE_SECONDS, abs=SOON)


# --- jobs that are held -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def being_executed(machine: Machine, script: Script) -> AsyncIterator[Supervisor]:
    """A supervisor of a job that is launched and not executed yet, a second after it was."""
    supervisor = await machine.held(script)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with suppress(JobmasterError):
                await supervisor.run(launched_of(supervisor.record))

        nursery.start_soon(run)  # noqa: ASYNC113  # the sleep lets it begin
        await trio.sleep(1)
        assert isinstance(supervisor.record.state, Held)
        yield supervisor


@pytest.mark.parametrize(("force", "seconds"), [(False, 1 + GRACE_SECONDS), (True, 1)])
async def test_a_job_that_is_held_is_stopped_when_it_is_executed(machine: Machine, force: bool, seconds: float) -> None:
    """The first order given before the command is executed is carried out then, with its reason and its haste."""
    async with being_executed(machine, Script(execute_seconds=2, on_term=None)) as supervisor:
        supervisor.order_stop("client2", "forbidden", force=force)
        supervisor.order_stop("client1", "too late")
        assert scripted(supervisor).order is not None
        assert scripted(supervisor).truth.terms == []
        cause, passed = await end_of(supervisor)
        assert stopped_as(cause) == ("client2", signal.SIGKILL, None, True)
        assert isinstance(cause, Stopped)
        assert cause.reason == "forbidden"
        assert passed == pytest.approx(seconds, abs=SOON)
    assert len(scripted(supervisor).truth.terms) == 1


async def test_who_ends_as_it_is_executed_was_not_stopped(machine: Machine) -> None:
    """A job that has ended by itself when the order could be carried out keeps its own end."""
    async with being_executed(machine, Script(execute_seconds=2, ends_at=0, death=Exited(3))) as supervisor:
        supervisor.order_stop("client1")
        assert (await end_of(supervisor))[0] == Exited(3)


async def test_a_job_that_is_never_executed_is_not_stopped(machine: Machine) -> None:
    """Whoever orders the end of a job that then cannot be executed is told just that."""
    for script in (
        Script(execute_seconds=NEVER),
        Script(execute_seconds=2, execute_error=CommandNotRunnable("'x' not found")),
    ):
        async with being_executed(machine, script) as supervisor:
            supervisor.order_stop("client1", force=True)
            assert isinstance((await end_of(supervisor))[0], FailedToStart)
        assert scripted(supervisor).truth.terms == []


async def test_a_stop_of_a_job_that_is_being_given_up(machine: Machine) -> None:
    """A command that is executed while its start is being given up was stopped by whoever had asked for it before."""
    script = Script(execute_seconds=NEVER, is_executed_unheard=True, on_term=None)
    async with being_executed(machine, script) as supervisor:
        supervisor.order_stop("client1")
        assert stopped_as((await end_of(supervisor))[0]) == ("client1", signal.SIGKILL, None, True)


async def test_the_hurry_of_a_stop_is_its_own(machine: Machine) -> None:
    """A stop without a grace period that nothing came of leaves the next one its grace period."""
    supervisor = await machine.running(Script(on_term=None))
    execution = scripted(supervisor)
    has_died, execution.has_died = execution.has_died, lambda: True  # type: ignore[method-assign]  # as far as is seen
    supervisor.order_stop("client2", force=True)
    execution.has_died = has_died  # type: ignore[method-assign]
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert stopped_as(cause) == ("client1", signal.SIGKILL, None, True)
    assert seconds == pytest.approx(GRACE_SECONDS, abs=SOON)


async def test_a_stop_as_soon_as_the_launch_is_told(machine: Machine) -> None:
    """Who watches and stops a job that it does not allow is answered with its end."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        nursery.start_soon(machine.start, registry, CLIENT1, Script(execute_seconds=2))
        await trio.sleep(1)
        (job_id,) = machine.records.jobs
        with trio.fail_after(60):
            record = await registry.stop(CLIENT1, job_id, "forbidden")
        assert isinstance(record.state, Ended)
        assert stopped_as(record.state.cause) == ("client1", signal.SIGTERM, None, False)


# --- jobs of an earlier server ----------------------------------------------------------------------------------------


ORDER = StopOrder(by="client1", requested_at=datetime.now(UTC))


@pytest.mark.parametrize(
    ("recorded", "death", "is_killed", "cause"),
    [
        ((), Exited(3), False, ("client1", 15, 3, False)),
        ((StopOrdered(order=ORDER),), Exited(3), False, ("client1", 15, 3, False)),
        ((StopOrdered(order=ORDER), StopSignalled()), KILLED, False, ("client1", 9, None, False)),
        ((StopOrdered(order=ORDER), StopSignalled()), KILLED, True, ("client1", 9, None, True)),
        ((StopOrdered(order=ORDER),), KILLED, True, ("client1", 9, None, True)),
        ((StopOrdered(order=ORDER), StopSignalled()), Exited(3), True, ("client1", 15, 3, False)),
        ((StopOrdered(order=ORDER), StopSignalled(), KillSent()), KILLED, True, ("client1", 9, None, True)),
    ],
)
async def test_what_was_noted_and_not_recorded(
    machine: Machine,
    recorded: tuple[JobEvent, ...],
    death: Exited | Signalled,
    is_killed: bool,
    cause: tuple[str, int, int | None, bool],
) -> None:
    """A job that died without a server is told as ended by what that had left word of, where it may have done it.

    Nothing of it is recorded twice.
    """
    held = await machine.held(Script())
    record = held.record
    for event in (launched_of(record), Executed(), *recorded):
        machine.records.post(record.id, event)
    scripted(held).end(death)
    supervisor = Supervisor(
        machine.records.jobs[record.id],
        held.execution,
        held.output,
        held._pump,
        Terms(grace_seconds=GRACE_SECONDS),
        machine.records,
    )
    await supervisor.resume(ORDER, is_killed=is_killed)
    assert stopped_as(cause_of_job(supervisor)) == cause
    assert set(Counter(type(event) for _, event in machine.records.written).values()) == {1}


async def test_a_kill_that_takes_its_time(machine: Machine) -> None:
    """However often SIGKILL is sent to a process that does not die at once, that is one event."""
    supervisor = await machine.running(Script(on_term=None, death_seconds=3))
    supervisor.order_stop("client1", force=True)
    await supervisor.wait_ended()
    assert [type(event) for _, event in machine.records.written].count(KillSent) == 1


@pytest.mark.parametrize(("ends_at", "seconds"), [(4.0, 4.0), (NEVER, 2 + GRACE_SECONDS)])
async def test_others_keep_their_grace_period_over_a_hand_over(
    machine: Machine, ends_at: float, seconds: float
) -> None:
    """Where the main process has ended at SIGTERM, the next server gives the others a grace period, and kills them then."""
    script = Script(
        on_term=OnTerm(after=0), others_end_at=ends_at, others_ignore_term=True, writes=((0, 10), (3.5, 10))
    )
    started = trio.current_time()
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, script)
        await trio.sleep(1)
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1")
        await trio.sleep(1)
        assert isinstance(job.record.state, Closing)
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        assert stopped_as(await ended(registry, job_id)) == ("client1", signal.SIGTERM, None, False)
        assert trio.current_time() - started == pytest.approx(seconds, abs=SOON)
        assert record_of(registry, job_id).output_bytes == 20


INT: Final = StopTerms(signal=signal.SIGINT, grace_ms=2_000)
DIES: Final = OnTerm(death=Signalled(signal.SIGINT))


async def test_a_signal_and_a_grace_period_of_its_own(machine: Machine) -> None:
    """A job that has them gets that signal, and has that long; the cause says what ended it."""
    for script, cause, after in (
        (Script(on_term=DIES), (signal.SIGINT, None, False), 0),
        (Script(on_term=OnTerm(death=Exited(7), after=1)), (signal.SIGINT, 7, False), 1),
        (Script(on_term=None), (signal.SIGKILL, None, True), 2),
        (Script(on_term=DIES, others_end_at=NEVER, others_ignore_term=True), (signal.SIGINT, None, False), 2),
    ):
        supervisor = await machine.running(script, stop=INT)
        supervisor.order_stop("client1")
        was, seconds = await end_of(supervisor)
        assert stopped_as(was) == ("client1", *cause)
        assert seconds == pytest.approx(after, abs=SOON)


async def test_a_long_grace_period_of_its_own(machine: Machine) -> None:
    """It is kept at a stop, and at the server's end it is no longer than the server's; force ends it."""
    long = StopTerms(grace_ms=3_600_000)
    supervisor = await machine.running(Script(on_term=None), stop=long)
    supervisor.order_stop("client1")
    assert (await end_of(supervisor))[1] == pytest.approx(3_600, abs=SOON)
    supervisor = await machine.running(Script(on_term=None), stop=long)
    supervisor.end_with_server()
    await check_end(supervisor, ServerShutdown(signal=signal.SIGKILL), after=GRACE_SECONDS)
    supervisor = await machine.running(Script(on_term=None), stop=long)
    supervisor.order_stop("client1")
    await trio.sleep(100)
    supervisor.end_with_server()
    assert (await end_of(supervisor))[1] == pytest.approx(GRACE_SECONDS, abs=SOON)
    supervisor = await machine.running(Script(on_term=None), stop=long)
    supervisor.order_stop("client1")
    await trio.sleep(100)
    supervisor.order_stop("client1", force=True)
    assert (await end_of(supervisor))[1] == pytest.approx(0, abs=SOON)


async def test_a_shorter_grace_period_at_the_servers_end(machine: Machine) -> None:
    """A job's own is not made longer by the server's."""
    supervisor = await machine.running(Script(on_term=None), stop=StopTerms(grace_ms=1_000))
    supervisor.end_with_server()
    await check_end(supervisor, ServerShutdown(signal=signal.SIGKILL), after=1)


@pytest.mark.parametrize("is_adopted", [True, False])
@pytest.mark.parametrize("gap", [5, 100])
async def test_the_signal_over_a_hand_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, gap: float, is_adopted: bool
) -> None:
    """The next server knows by which signal a job was told to end, though the launcher alone has kept the order."""
    stop = StopTerms(signal=signal.SIGINT, grace_ms=20_000)
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(death=Exited(7), after=12)), stop=stop)
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        with monkeypatch.context() as patch:  # the journal's disk is slow, and the server dies
            patch.setattr(MemoryRecords, "post", lambda *_, **__: None)
            job.order_stop("client1")
            await registry.hand_over()
    await trio.sleep(gap)
    if not is_adopted:
        machine.plan(Fault(point="adopt", call=1, times=ALWAYS, number=errno.EIO))
    async with machine.registry() as registry:
        await registry.recover()
        cause = await ended(registry, job_id)
        if is_adopted or gap == 100:
            assert stopped_as(cause) == ("client1", signal.SIGINT, 7, False)
        else:  # it is killed, and nobody knows how it would have ended
            assert isinstance(cause, ServerLost)


@pytest.mark.parametrize("is_adopted", [True, False])
@pytest.mark.parametrize("death", [Exited(0), Signalled(signal.SIGTERM)])
async def test_a_signal_that_was_not_sent_ends_nothing(
    machine: Machine, death: Exited | Signalled, is_adopted: bool
) -> None:
    """A job whose end was ordered, in vain since the host failed, and that ended by itself without a server, did just that."""
    machine.plan(Fault(point="signal_main", call=1), Fault(point="adopt", call=1, times=0 if is_adopted else ALWAYS))
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=3, death=death))
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1")
        await trio.sleep(1)
        await registry.hand_over()
    await trio.sleep(3)
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == death


async def test_a_signal_that_was_not_sent_is_sent_by_the_next_server(machine: Machine) -> None:
    """The order holds for a job that still runs then."""
    machine.plan(Fault(point="signal_main", call=1))
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(death=Exited(7))))
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1")
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        assert stopped_as(await ended(registry, job_id)) == ("client1", signal.SIGTERM, 7, False)


async def test_the_rest_of_its_own_grace_period(machine: Machine) -> None:
    """The next server gives a job what is left of it."""
    async with machine.registry(hands_over=lambda: True) as registry:
        stop = StopTerms(grace_ms=20_000)
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None), stop=stop)
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1")
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        before = trio.current_time()
        assert stopped_as(await ended(registry, job_id)) == ("client1", signal.SIGKILL, None, True)
        assert trio.current_time() - before == pytest.approx(20, abs=SOON)


@pytest.mark.parametrize(("passed", "rest"), [(0, 5), (2, 3), (5, 0), (3600, 0), (-3600, 5)])
def test_the_rest_of_a_grace_period(passed: float, rest: float) -> None:
    """It began with the order, whichever server was there then; a clock that was set back makes it no longer."""
    order = StopOrder(by="client1", requested_at=datetime.now(UTC))
    assert rest_of_grace(order, order.requested_at + timedelta(seconds=passed), 5.0) == rest


async def test_a_kill_is_noted(machine: Machine) -> None:
    """Word is left before SIGKILL is sent to a job that was told to end; and of no other kill."""
    for order in (True, False):
        supervisor = await machine.running(Script(on_term=None, ends_at=NEVER if order else 1, others_end_at=NEVER))
        if order:
            supervisor.order_stop("client1")
        await supervisor.wait_ended()
        assert scripted(supervisor).kill_is_noted == order


async def test_a_kill_is_carried_out_at_once(machine: Machine) -> None:
    """A job whose grace period was over when its server died has none with the next."""
    held = await machine.held(Script(on_term=None))
    await held.execution.execute()
    for event in (launched_of(held.record), Executed(), StopOrdered(order=ORDER), StopSignalled()):
        machine.records.post(held.record.id, event)
    record = machine.records.jobs[held.record.id]
    terms = Terms(grace_seconds=GRACE_SECONDS)
    supervisor = Supervisor(record, held.execution, held.output, held._pump, terms, machine.records)
    machine.nursery.start_soon(partial(supervisor.resume, ORDER, is_killed=True))
    cause, seconds = await end_of(supervisor)
    assert stopped_as(cause) == ("client1", 9, None, True)
    assert seconds == pytest.approx(0, abs=SOON)


@pytest.mark.parametrize("asks_again", [False, True])
async def test_a_stop_of_a_held_job_goes_on_over_a_hand_over(machine: Machine, asks_again: bool) -> None:
    """An order given while a job is held is carried out by the next server, with the whole grace period; the first counts."""
    async with machine.registry(hands_over=lambda: True) as registry:
        started = trio.current_time()
        machine.nursery.start_soon(_try_to_start, machine, registry, Script(execute_seconds=8, on_term=None))
        await trio.sleep(1)
        (job_id,) = machine.records.jobs
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1")
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        if asks_again:
            await trio.sleep(1)
            assert isinstance(record_of(registry, job_id).state, Held)
            await registry.stop(ADMIN, job_id)
        assert stopped_as(await ended(registry, job_id)) == ("client1", signal.SIGKILL, None, True)
        assert trio.current_time() - started == pytest.approx(8 + GRACE_SECONDS, abs=SOON)


async def test_a_stop_of_a_held_job_that_was_adopted(machine: Machine) -> None:
    """A job that an earlier server left held can be stopped before its command is executed."""
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.nursery.start_soon(_try_to_start, machine, registry, Script(execute_seconds=8))
        await trio.sleep(1)
        (job_id,) = machine.records.jobs
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        with trio.fail_after(60):
            record = await registry.stop(CLIENT1, job_id)
        assert isinstance(record.state, Ended)
        assert stopped_as(record.state.cause) == ("client1", signal.SIGTERM, None, False)


@pytest.mark.parametrize(
    ("death", "cause"),
    [(Exited(3), Exited(3)), (Signalled(signal.SIGTERM), ("client1", signal.SIGTERM, None, False))],
)
async def test_whether_an_early_order_was_carried_out(
    machine: Machine, death: Exited | Signalled, cause: Exited | tuple[str, int, int | None, bool]
) -> None:
    """A job that was held when its end was ordered, and then ran without a server, was stopped if it died of the signal."""
    held = await machine.held(Script())
    machine.records.post(held.record.id, launched_of(held.record))
    await held.execution.execute()
    scripted(held).end(death)
    scripted(held).execute = _executed  # type: ignore[method-assign]  # as the launcher tells the next server
    terms = Terms(grace_seconds=GRACE_SECONDS)
    supervisor = Supervisor(held.record, held.execution, held.output, held._pump, terms, machine.records)
    await supervisor.resume(ORDER, is_early=True)
    was = cause_of_job(supervisor)
    assert (stopped_as(was) if isinstance(cause, tuple) else was) == cause


async def test_an_early_order_of_a_job_that_is_given_up(machine: Machine) -> None:
    """A command that is executed while the next server gives its start up was stopped by whoever had asked for it before."""
    held = await machine.held(Script(execute_seconds=NEVER, is_executed_unheard=True, on_term=None))
    machine.records.post(held.record.id, launched_of(held.record))
    with suppress(JobmasterError):
        await held.resume(ORDER, is_early=True)
    assert stopped_as(cause_of_job(held)) == ("client1", signal.SIGKILL, None, True)


async def _executed() -> None:
    await trio.lowlevel.checkpoint()


async def _try_to_start(machine: Machine, registry: Registry, script: Script) -> None:
    with suppress(JobmasterError):
        await machine.start(registry, CLIENT1, script, request_id="request")
