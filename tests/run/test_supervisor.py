"""One job from its execution to its end: each way to end."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
import trio

from jobmaster.errors import CommandNotRunnable, HostError
from jobmaster.job.cause import Exited, FailedToStart, ServerLost, ServerShutdown, Signalled
from jobmaster.job.record import Launched
from jobmaster.job.request import RequestKey
from jobmaster.job.state import Ended, Finished, Held, Running
from jobmaster.output.pump import Pump
from jobmaster.run.supervisor import EXECUTE_SECONDS, RETRY_SECONDS, Supervisor
from tests.run.conftest import KILLED, SOON, Machine, cause_of_job, check_end, end_of, launched_of, scripted
from tests.run.faults import Fault
from tests.run.scripted import NEVER, OnTerm, Script, output

HOUR: Final = timedelta(hours=1)


@pytest.mark.parametrize("death", [Exited(0), Exited(3), Signalled(signal.SIGSEGV, core_dumped=True), KILLED])
async def test_its_own_end(machine: Machine, caplog: pytest.LogCaptureFixture, death: Exited | Signalled) -> None:
    """A job that ends by itself is told as it ended, its output is whole, nothing is left of it, nothing is complained of."""
    supervisor = await machine.running(Script(ends_at=2, death=death, writes=((0, 5000), (1, 300_005))))
    assert isinstance(supervisor.record.state, Running)
    await check_end(supervisor, death, after=2)
    assert supervisor.output.path.read_bytes() == output(305_005)
    assert (supervisor.record.output_bytes, supervisor.record.output_bytes_lost) == (305_005, 0)
    assert supervisor.leaves_nothing
    assert scripted(supervisor).is_closed
    assert supervisor.output.sealed
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("died", "others_end_at", "is_told"),
    [(-HOUR / 2, 0, True), (-2 * HOUR, 0, False), (HOUR, 0, False), (-HOUR / 2, NEVER, False), (None, 0, False)],
    ids=["at some time", "before its start", "in the future", "with survivors", "nobody knows"],
)
async def test_when_it_ended(
    machine: Machine, died: timedelta | None, others_end_at: float, is_told: bool
) -> None:  # a parameter
    """When its main process died, where that is told and no other lived on; never before its start or in the future."""
    before = datetime.now(UTC)
    at = None if died is None else before + died
    supervisor = await machine.held(Script(ends_at=1, told_died_at=at, others_end_at=others_end_at))
    start = before - HOUR
    launched = replace(launched_of(supervisor.record), at=start)
    supervisor._record._record = replace(supervisor.record, state=Held(pid=launched.pid, started_at=start))
    await machine.nursery.start(supervisor.run, launched)
    await end_of(supervisor)
    state = supervisor.record.state
    assert isinstance(state, Ended)
    if is_told:
        assert state.ended_at == at
    elif at is not None and at < start:
        assert state.ended_at == start
    else:
        assert before <= state.ended_at <= datetime.now(UTC)


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
    assert supervisor.leaves_nothing
    assert scripted(supervisor).is_closed


async def test_a_server_that_ends_as_a_command_is_executed(machine: Machine) -> None:
    """A job whose supervisor is cancelled before it hears of the execution was ended by the server, and not for its start."""
    supervisor = await machine.held(Script(is_executed_unheard=True, execute_seconds=NEVER))
    launched = replace(launched_of(supervisor.record), request=RequestKey(id="request", digest=b""))
    with trio.move_on_after(1):
        await supervisor.run(launched)
    assert cause_of_job(supervisor) == ServerShutdown(signal=signal.SIGKILL)


async def test_a_host_that_fails_to_execute_is_no_bug(machine: Machine) -> None:
    """An error of the kernel's is told as one of the host: the command was never executed."""
    machine.plan(Fault(point="execute", call=1, number=errno.EIO))
    supervisor = await machine.held(Script())
    with pytest.raises(HostError, match=os.strerror(errno.EIO)) as error:
        await supervisor.run(launched_of(supervisor.record))
    assert cause_of_job(supervisor) == FailedToStart(str(error.value))
    assert supervisor.leaves_nothing


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
    words = r"did not find and execute the command within 10 s; .*or are the job.s limits of CPU or memory too small\?"
    with pytest.raises(CommandNotRunnable, match=words):
        await supervisor.run(launched_of(supervisor.record))
    assert trio.current_time() - before == pytest.approx(EXECUTE_SECONDS, abs=SOON)
    assert supervisor.leaves_nothing


async def test_a_cancelled_supervisor_ends_its_job(machine: Machine) -> None:
    """Cancellation of its task is the server's end: the job is signalled, killed and recorded so."""
    supervisor = await machine.held(Script(on_term=OnTerm(after=1), others_end_at=NEVER))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, launched_of(supervisor.record))
        nursery.cancel_scope.cancel()
    assert cause_of_job(supervisor) == ServerShutdown(signal=signal.SIGKILL)
    assert len(scripted(supervisor).truth.terms) == 1
    assert supervisor.leaves_nothing


# --- bugs -------------------------------------------------------------------------------------------------------------


async def test_a_bug_ends_the_job_and_is_told(machine: Machine) -> None:
    """An exception that nobody expects is raised, after the job was killed, its waiters released, its cause recorded."""
    supervisor = await machine.held(Script(bug=RuntimeError("a bug, scripted"), others_end_at=NEVER, death_seconds=3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_with_bug, supervisor)
        await trio.sleep(1)
        scripted(supervisor).end(Exited(0))
    assert cause_of_job(supervisor) == ServerLost("a bug in the server ended it")
    assert supervisor.leaves_nothing, "its other processes were not waited for"
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
