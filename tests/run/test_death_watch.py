"""How a main process died, where that can be known, and whom the kernel killed for memory."""

from __future__ import annotations

import errno
import math
import signal

import pytest
import trio

from jobmaster.job.cause import OomKilled, ServerLost
from jobmaster.job.record import OomKillsCounted
from jobmaster.run.death_watch import LONGEST_PAUSE_SECONDS, RECORD_PAUSE_SECONDS, SETTLE_SECONDS, DeathWatch
from jobmaster.run.live_record import LiveRecord
from jobmaster.run.teardown import CLOSING_SECONDS
from tests.run.conftest import GRACE_SECONDS, KILLED, SOON, Machine, check_end, end_of, scripted, stopped_as
from tests.run.faults import Fault
from tests.run.identities import CLIENT1
from tests.run.scripted import NEVER, Script


async def test_a_lost_launcher(machine: Machine) -> None:
    """Where nobody will learn how it dies, the job is killed and recorded as lost, with the reason."""
    supervisor = await machine.running(Script(lost_at=1, on_term=None, others_end_at=NEVER))
    await check_end(supervisor, ServerLost("nobody can tell how it died"), after=1)
    assert scripted(supervisor).truth.death == KILLED
    assert supervisor.leaves_nothing


async def test_a_launcher_that_is_stopped(machine: Machine) -> None:
    """A main process that died of the stop, whose status is not told in time, is not said to have outlived SIGKILL."""
    supervisor = await machine.running(Script(status_never_comes=True))
    supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert cause == ServerLost("its main process died, but nobody told how")
    assert seconds == pytest.approx(GRACE_SECONDS + CLOSING_SECONDS, abs=SOON)
    assert supervisor.leaves_nothing


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
    assert supervisor.leaves_nothing


@pytest.mark.parametrize("stop", [True, False])
async def test_a_withheld_status(machine: Machine, stop: bool) -> None:
    """A job whose status a tracer withholds ends for who waits, as soon as nothing of it lives."""
    supervisor = await machine.running(Script(ends_at=NEVER if stop else 1, status_is_withheld=True))
    if stop:
        supervisor.order_stop("client1")
    cause, seconds = await end_of(supervisor)
    assert cause == ServerLost("nobody can tell how it died")
    assert seconds <= 1 + SOON
    assert supervisor.leaves_nothing


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


async def test_children_killed_again_and_again(machine: Machine) -> None:
    """Each is counted in the record at once; the journal is told of the first at once, of the rest ever more rarely, and all."""
    kills, counted = 1000, list[int]()
    times = tuple(float(number) for number in range(1, kills + 1))
    supervisor = await machine.running(Script(children_killed_for_memory=times, ends_at=kills + 0.9))
    for _ in times:
        await trio.sleep(0.5)
        counted.append(supervisor.record.oom_kills)
        await trio.sleep(0.5)
        supervisor.memory_has_changed()
    await end_of(supervisor)
    assert counted == list(range(kills))
    told = [event.count for _, event in machine.records.written if isinstance(event, OomKillsCounted)]
    assert (told[:2], told[-1]) == ([1, 2], kills)
    assert len(told) <= math.log2(LONGEST_PAUSE_SECONDS) + kills / LONGEST_PAUSE_SECONDS + 3


async def test_a_few_children_killed(machine: Machine) -> None:
    """Those that were killed shortly after another one are recorded when the pause is over, though no more follow."""
    supervisor = await machine.running(Script(children_killed_for_memory=(1, 1.2, 1.4)))
    for _ in range(3):
        await trio.sleep(0.55)
        supervisor.memory_has_changed()
    await trio.sleep(RECORD_PAUSE_SECONDS)
    told = [event.count for _, event in machine.records.written if isinstance(event, OomKillsCounted)]
    assert told == [1, 3]


async def test_counted_and_handed_over(machine: Machine) -> None:
    """What is counted and not recorded yet is recorded as the job is handed over: the next server finds none that is new."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(children_killed_for_memory=(1, 1.3)))
        await trio.sleep(1.9)
        await registry.hand_over()
    assert machine.records.jobs[job_id].oom_kills == 2


async def test_what_a_server_that_was_killed_had_counted(machine: Machine) -> None:
    """The next server knows of every kill that the main process has outlived, whether the journal has it already or not."""
    supervisor = await machine.running(Script(children_killed_for_memory=(1, 1.3)))
    for pause in (1.1, 0.4):
        await trio.sleep(pause)
        supervisor.memory_has_changed()
    await trio.sleep(SETTLE_SECONDS + SOON)
    found = machine.records.jobs[supervisor.job_id]
    assert found.oom_kills == 1
    following = LiveRecord(found, machine.records, supervisor.output, hands_over=lambda: False)
    DeathWatch(following, supervisor.execution)
    assert following.oom_kills == 2


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
