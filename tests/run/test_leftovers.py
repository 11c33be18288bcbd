"""What could not be killed or removed holds a place, and is tried again."""

from __future__ import annotations

import errno

import pytest
import trio

from jobmaster.errors import CommandNotRunnable, ServerBusy
from jobmaster.job.cause import ServerLost
from jobmaster.job.identifier import JobId
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Ended, Running
from jobmaster.run.bounds import Bounds
from jobmaster.run.leftovers import LEFTOVER_SECONDS
from jobmaster.run.registry import Registry
from jobmaster.run.teardown import CLOSING_SECONDS, REMOVAL_SECONDS
from jobmaster.threads import LeftThreads
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, CLIENT2, CLIENTS, record_of
from tests.run.scripted import NEVER, Script


async def test_leftovers_count_and_are_tried_again(machine: Machine) -> None:
    """A job that could not be killed holds its client's place after its end, until it has died and is removed."""
    async with machine.registry(grace_seconds=0, bounds=Bounds(running=4)) as registry:
        stuck = Script(on_term=None, death_seconds=CLOSING_SECONDS + LEFTOVER_SECONDS)
        job_id = await machine.start(registry, CLIENT1, stuck)
        record = await registry.stop(CLIENT1, job_id)
        assert isinstance(record.state, Ended)
        assert isinstance(record.state.cause, ServerLost)
        assert registry.running == 0
        with pytest.raises(
            ServerBusy, match="client1 runs 0 jobs and has 1 that ended and left a stuck process or thread"
        ):
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)
        await trio.sleep(3 * LEFTOVER_SECONDS)
        assert machine.execution(job_id).is_closed
        await machine.start(registry, CLIENT1)


async def test_leftovers_count_for_all_clients_together(machine: Machine) -> None:
    """What could not be killed of one client's takes a place of those that all clients share."""
    async with machine.registry(grace_seconds=0, bounds=Bounds(running=8)) as registry:
        stuck = await machine.start(registry, CLIENT1, Script(on_term=None, death_seconds=NEVER))
        await registry.stop(CLIENT1, stuck)
        for client in (CLIENT1, *CLIENTS[1:4] * 2):
            await machine.start(registry, client)
        with pytest.raises(
            ServerBusy, match=r"the server runs 7 jobs and has 1 that ended and left .*, as many as it may"
        ):
            await machine.start(registry, CLIENTS[4])


def left_threads(registry: Registry, job_id: str) -> LeftThreads:
    """Those of a job that runs."""
    live = registry._live.get(JobId(job_id))
    assert live is not None
    assert live.supervisor is not None
    return live.supervisor._pump.left_threads


async def test_a_thread_that_is_left_counts(machine: Machine) -> None:
    """A job that has ended holds its client's place as long as a thread is left in one of its pipes; while it runs, once."""
    async with machine.registry(grace_seconds=0, bounds=Bounds(running=8)) as registry:
        job_id = await machine.start(registry, CLIENT1)
        left = left_threads(registry, job_id)
        for _ in range(2):
            left.add()
        other = await machine.start(registry, CLIENT1)
        for ended in (job_id, other):
            await registry.stop(CLIENT1, ended)
        await machine.start(registry, CLIENT1)
        for _ in range(2):
            with pytest.raises(
                ServerBusy, match="client1 runs 1 jobs and has 1 that ended and left a stuck process or"
            ):
                await machine.start(registry, CLIENT1)
            left.remove()
        await machine.start(registry, CLIENT1)


async def test_a_job_that_leaves_both_counts_once(machine: Machine) -> None:
    """A process that could not be killed and a thread are left of one job, and hold one place."""
    async with machine.registry(grace_seconds=0, bounds=Bounds(running=8)) as registry:
        stuck = await machine.start(registry, CLIENT1, Script(on_term=None, death_seconds=NEVER))
        left_threads(registry, stuck).add()
        await registry.stop(CLIENT1, stuck)
        await machine.start(registry, CLIENT1)


@pytest.mark.parametrize("point", ["kill", "lift_limits", "remove", "close"])
async def test_a_leftover_that_fails_is_tried_again(machine: Machine, point: str) -> None:
    """An error at a leftover is logged, ends nothing else, and the leftover is tried again."""
    async with machine.registry(grace_seconds=0) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None, busy_seconds=3))
        other = await machine.start(registry, CLIENT2)
        await registry.stop(CLIENT1, job_id)
        assert not machine.execution(job_id).is_removed
        machine.plan(Fault(point=point, call=1, times=2, number=errno.EBUSY))
        await trio.sleep(4 * LEFTOVER_SECONDS)
        assert registry._leftovers.executions == ()
        assert machine.execution(job_id).is_closed
        assert isinstance(record_of(registry, other).state, Running)


async def test_leftovers_on_a_disk_that_stands_still_hold_up_no_others(machine: Machine) -> None:
    """However many there are, what another job has left is removed in its first turn."""
    async with machine.registry(grace_seconds=0) as registry:
        held_up = [await machine.start(registry, CLIENT1, Script(lifting_hangs=True)) for _ in range(8)]
        other = await machine.start(registry, CLIENT2, Script(busy_seconds=REMOVAL_SECONDS + 1))
        async with trio.open_nursery() as nursery:
            for caller, job_id in (*((CLIENT1, each) for each in held_up), (CLIENT2, other)):
                nursery.start_soon(registry.stop, caller, job_id)
        assert len(registry._leftovers.executions) == 9
        await trio.sleep(LEFTOVER_SECONDS + 1)
        assert machine.execution(other).is_removed
        assert len(registry._leftovers.executions) == 8


@pytest.mark.parametrize("death_seconds", [0, 60])
@pytest.mark.parametrize("settles", [True, False])
async def test_a_leftover_is_the_launchers_until_its_end_is_settled(
    machine: Machine, settles: bool, death_seconds: float
) -> None:
    """The launcher forgets a job that was given up when it is removed and the journal has its end, and no later."""
    machine.scripts["stuck"] = Script(execute_seconds=NEVER, death_seconds=death_seconds)
    async with machine.registry() as registry:
        machine.records.settle_seconds, machine.records.posts_wait = (0, False) if settles else (1e9, True)
        with pytest.raises(CommandNotRunnable):
            await registry.start(CLIENT1, JobSpecification(command="stuck"))
        execution = machine.host.spawned["stuck"]
        assert (execution.is_left, execution.is_closed) == (False, settles and not death_seconds)
        await trio.sleep(death_seconds + 2 * LEFTOVER_SECONDS)
        assert (execution.is_left, execution.is_closed) == (False, settles)
        machine.records.settle_seconds = 0
        await machine.records.settle()
        await trio.sleep(2 * LEFTOVER_SECONDS)
        assert (execution.is_left, execution.is_closed) == (False, True)
        assert registry._leftovers.executions == ()
