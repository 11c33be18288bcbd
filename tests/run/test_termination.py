"""How a job is stopped: orders, signals and the grace period, also where the server that was asked has died."""

from __future__ import annotations

import errno
import signal
from datetime import UTC, datetime
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.job.cause import Exited, ServerShutdown, Signalled, StopOrder
from jobmaster.job.record import JobEvent
from jobmaster.job.state import Closing, Executed, Running, StopOrdered, Stopping, StopSignalled
from jobmaster.run.supervisor import Supervisor, Terms
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
    ],
)
async def test_what_was_noted_and_not_recorded(
    machine: Machine,
    recorded: tuple[JobEvent, ...],
    death: Exited | Signalled,
    is_killed: bool,
    cause: tuple[str, int, int | None, bool],
) -> None:
    """A job that died without a server is told as ended by what that had left word of, where it may have done it."""
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
