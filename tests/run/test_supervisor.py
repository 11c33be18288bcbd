"""One job from its execution to its end: each way to end."""

from __future__ import annotations

import errno
import signal
from datetime import UTC, datetime
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import CommandNotRunnable, HostError
from jobmaster.job.cause import (
    Exited,
    FailedToStart,
    OomKilled,
    ServerShutdown,
    Signalled,
    StopOrder,
)
from jobmaster.job.record import JobEvent, Launched
from jobmaster.job.state import Closing, Executed, Finished, Held, Running, StopOrdered, Stopping, StopSignalled
from jobmaster.run.supervisor import (
    EXECUTE_SECONDS,
    SETTLE_SECONDS,
    Supervisor,
    Terms,
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
    stopped_as,
)
from tests.run.faults import Fault
from tests.run.scripted import NEVER, OnTerm, Script, output

# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", [Exited(0), Exited(3), Signalled(signal.SIGSEGV, core_dumped=True), KILLED])
async def test_its_own_end(machine: Machine, caplog: pytest.LogCaptureFixture, death: Exited | Signalled) -> None:
    """A job that ends by itself is told as it ended, its output is whole, nothing is left of it, nothing is complained of."""
    supervisor = await machine.running(Script(ends_at=2, death=death, writes=((0, 5000), (1, 300_005))))
    assert isinstance(supervisor.record.state, Running)
    await check_end(supervisor, death, after=2)
    assert supervisor.output.path.read_bytes() == output(305_005)
    assert (supervisor.record.output_bytes, supervisor.record.output_bytes_lost) == (305_005, 0)
    assert supervisor.is_removed
    assert scripted(supervisor).is_closed
    assert supervisor.output.sealed
    assert caplog.text == ""


async def test_what_is_left_of_a_job_that_ended_by_itself_is_killed(machine: Machine) -> None:
    """Processes that outlive the main one get no grace, and do not hold up the end."""
    supervisor = await machine.running(Script(ends_at=1, others_end_at=NEVER, others_ignore_term=True))
    await check_end(supervisor, Exited(0), after=1)


async def test_a_job_is_executed_before_it_runs(machine: Machine) -> None:
    """It is held until the kernel has executed its command, and running from then on."""
    supervisor = await machine.held(Script(execute_seconds=3, ends_at=9))
    machine.nursery.start_soon(supervisor.run, launched_of(supervisor.record))
    await trio.sleep(2.9)
    held = supervisor.record.state
    await trio.sleep(0.2)
    assert isinstance(held, Held)
    assert isinstance(supervisor.record.state, Running)


@pytest.mark.parametrize("error", [CommandNotRunnable("command 'x' not found"), HostError("no memory")])
async def test_what_is_not_executed_is_an_error_of_start(machine: Machine, error: Exception) -> None:
    """The error comes out as it is, and nothing is left."""
    supervisor = await machine.held(Script(execute_error=error))
    with pytest.raises(type(error), match=str(error)):
        await supervisor.run(launched_of(supervisor.record))
    assert cause_of_job(supervisor) == FailedToStart(str(error))
    assert supervisor.is_removed
    assert scripted(supervisor).is_closed


@pytest.mark.parametrize("is_inherited", [False, True])
async def test_a_death_before_the_command_is_not_recorded(machine: Machine, is_inherited: bool) -> None:
    """The journal has nothing between launch and end: a server that is killed there leaves a job that was not executed."""
    supervisor = await machine.held(Script(execute_error=CommandNotRunnable("command 'x' not found")))
    launched = launched_of(supervisor.record)
    if is_inherited:
        await machine.records.record(launched.id, launched)
    with pytest.raises(CommandNotRunnable):
        await (supervisor.resume() if is_inherited else supervisor.run(launched))
    assert [type(event) for _, event in machine.records.written] == [Launched, Finished]


async def test_the_launcher_keeps_what_is_not_recorded(machine: Machine) -> None:
    """A child that executed nothing is given up when the journal has its end: until then another server may ask of it."""
    machine.records.posts_wait, machine.records.settle_seconds = True, 1
    supervisor = await machine.held(Script(execute_error=CommandNotRunnable("command 'x' not found")))

    async def run() -> None:
        with pytest.raises(CommandNotRunnable):
            await supervisor.run(launched_of(supervisor.record))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(0.9)
        assert not scripted(supervisor).is_closed
        assert not supervisor.ended.is_set()  # which is when its output is removed
    assert machine.records.jobs == {}
    assert scripted(supervisor).is_closed


async def test_an_execution_that_does_not_come_has_a_deadline(machine: Machine) -> None:
    """A command on a disk that does not answer is given up after EXECUTE_SECONDS, with words for the client."""
    supervisor = await machine.held(Script(execute_seconds=NEVER))
    before = trio.current_time()
    with pytest.raises(CommandNotRunnable, match="did not find and execute the command within 10 s"):
        await supervisor.run(launched_of(supervisor.record))
    assert trio.current_time() - before == pytest.approx(EXECUTE_SECONDS, abs=SOON)
    assert supervisor.is_removed


# --- stops ------------------------------------------------------------------------------------------------------------


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


async def test_a_cancelled_supervisor_ends_its_job(machine: Machine) -> None:
    """Cancellation of its task is the server's end: the job is signalled, killed and recorded so."""
    supervisor = await machine.held(Script(on_term=OnTerm(after=1), others_end_at=NEVER))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, launched_of(supervisor.record))
        nursery.cancel_scope.cancel()
    assert cause_of_job(supervisor) == ServerShutdown(signal=signal.SIGKILL)
    assert len(scripted(supervisor).truth.terms) == 1
    assert supervisor.is_removed


# --- out of memory ----------------------------------------------------------------------------------------------------


async def test_the_main_process_out_of_memory(machine: Machine) -> None:
    """A main process killed by the kernel's OOM killer is told so, with the limit and the count."""
    supervisor = await machine.running(Script(killed_for_memory_at=1), memory_max=2**20)
    assert (await end_of(supervisor))[0] == OomKilled(memory_max=2**20, processes_killed=1)


async def test_a_child_killed_long_ago(machine: Machine) -> None:
    """A child's OOM kill an hour ago does not make a foreign SIGKILL of today an OOM kill; it is counted all the same."""
    supervisor = await machine.running(Script(children_killed_for_memory=(1,), ends_at=3600, death=KILLED))
    await trio.sleep(1.1)
    supervisor.memory_has_changed()
    await trio.sleep(1)
    assert supervisor.record.oom_kills == 1
    assert (await end_of(supervisor))[0] == KILLED
    assert supervisor.record.oom_kills == 1


async def test_its_own_kill_a_second_after_a_child_was_killed(machine: Machine) -> None:
    """`kill -9 $$` a second after a child's OOM kill is a signal, not an OOM kill."""
    supervisor = await machine.running(Script(children_killed_for_memory=(1,), ends_at=2, death=KILLED))
    await trio.sleep(1.2)
    supervisor.memory_has_changed()
    assert (await end_of(supervisor))[0] == KILLED


@pytest.mark.parametrize("looks", [0, 1, 5])
async def test_a_main_process_that_takes_seconds_to_die(machine: Machine, looks: int) -> None:
    """A large main process that takes seconds to die of its OOM kill was killed for memory, however often one looks."""
    supervisor = await machine.running(Script(killed_for_memory_at=1, death_seconds=8))
    await trio.sleep(1.1)
    for _ in range(looks):
        supervisor.memory_has_changed()
        await trio.sleep(1)
    assert (await end_of(supervisor))[0] == OomKilled(memory_max=None, processes_killed=1)


async def test_a_child_and_then_the_main_process(machine: Machine) -> None:
    """The main process's own OOM kill counts, also where children's came before it, and also in the same look."""
    for at in (5.0, 1.0 + SETTLE_SECONDS / 2):
        supervisor = await machine.running(Script(children_killed_for_memory=(1,), killed_for_memory_at=at))
        await trio.sleep(1)
        supervisor.memory_has_changed()
        assert (await end_of(supervisor))[0] == OomKilled(memory_max=None, processes_killed=2)


async def test_out_of_memory_while_it_is_being_stopped(machine: Machine) -> None:
    """An OOM kill in the grace period is one: the server had not killed it."""
    supervisor = await machine.running(Script(on_term=None, killed_for_memory_at=2))
    supervisor.order_stop("client1")
    assert (await end_of(supervisor))[0] == OomKilled(memory_max=None, processes_killed=1)


async def test_killed_by_the_server_after_a_child_was_killed(machine: Machine) -> None:
    """The server's own kill after the grace period is a stop, whatever was killed for memory before."""
    supervisor = await machine.running(Script(on_term=None, children_killed_for_memory=(4.99,)))
    supervisor.order_stop("client1")
    assert stopped_as((await end_of(supervisor))[0]) == ("client1", signal.SIGKILL, None, True)


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
