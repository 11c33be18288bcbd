"""Starts that fail or are given up leave nothing, and no job's failure is another's."""

from __future__ import annotations

import errno
from functools import partial

import pytest
import trio

from jobmaster.errors import AuditUnavailable, CommandNotRunnable, HostError
from jobmaster.job.cause import Exited, ServerLost, ServerShutdown
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Finished
from jobmaster.run.bounds import Bounds
from jobmaster.run.job_tasks import STARTS_OF_CLIENT
from jobmaster.run.registry import Registry
from jobmaster.run.supervisor import EXECUTE_SECONDS, Supervisor
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, CLIENTS, ended, record_of
from tests.run.scripted import NEVER, Script


async def test_what_cannot_be_started_leaves_nothing(machine: Machine) -> None:
    """An error of the spawning or of the execution is the caller's, and no record, file or share is left."""
    async with machine.registry(bounds=Bounds(running=4, ended=4)) as registry:
        machine.plan(Fault(point="spawn", call=1, times=3))
        for _ in range(3):
            with pytest.raises(HostError, match="scripted"):
                await machine.start(registry, CLIENT1)
        for _ in range(3):
            with pytest.raises(CommandNotRunnable):
                await machine.start(registry, CLIENT1, Script(execute_error=CommandNotRunnable("not found")))
        assert registry.running == 0
        await trio.sleep(1)
        assert machine.logs() == set()
        await machine.start(registry, CLIENT1)


async def test_the_jobs_of_a_client_share_threads(machine: Machine) -> None:
    """Those that move the output of one client's jobs are none of another's."""
    async with machine.registry() as registry:
        job_ids = [await machine.start(registry, caller) for caller in (CLIENT1, CLIENT1, CLIENT2)]
        shares = []
        for job_id in job_ids:
            supervisor = await registry.find(ADMIN, job_id)
            assert isinstance(supervisor, Supervisor)
            shares.append(supervisor._pump.share)
        assert shares[0] is shares[1]
        assert shares[0] is not shares[2]


async def test_what_is_not_admitted_leaves_nothing(machine: Machine) -> None:
    """Its child is held by then, and ends without having executed the command; the journal is told nothing."""
    machine.scripts["command"] = Script()
    was_held: list[bool] = []

    async def refuse() -> None:
        await trio.sleep(1)
        was_held.append(len(machine.host.made) == 1)
        raise AuditUnavailable("not now")

    async with machine.registry() as registry:
        with pytest.raises(AuditUnavailable, match="not now"):
            await registry.start(CLIENT1, JobSpecification(command="command"), "request", admitted=refuse)
        await trio.sleep(1)
        assert (registry.running, machine.logs(), machine.records.written) == (0, set(), [])
    (execution,) = machine.host.made
    assert (was_held, execution.was_executed(), execution.is_removed) == ([True], False, True)


async def test_nothing_is_executed_before_it_is_admitted(machine: Machine) -> None:
    """Nor recorded; a caller that leaves meanwhile leaves nothing, and what was awaited is not kept."""
    machine.scripts["command"] = Script()
    admitted = trio.Event()
    async with machine.registry() as registry:
        for seconds in (1, 3):
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        partial(registry.start, CLIENT1, JobSpecification(command="command"), admitted=admitted.wait)
                    )
                    await trio.sleep(2)
                    assert machine.records.written == []
                    assert [each.was_executed() for each in machine.host.made] == [False, False]
                    admitted.set()
        assert [each.was_executed() for each in machine.host.made] == [False, True]
        assert [live.admitted for live in registry._live.all()] == [None]


async def test_a_start_that_is_given_up_is_gone_with_its_end(machine: Machine) -> None:
    """A server that is killed before it has removed the job leaves no record of it: the end itself forgot it."""
    machine.scripts["late"] = Script(is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5)
    async with machine.registry() as registry:
        machine.records.settle_seconds = 1e9
        with pytest.raises(CommandNotRunnable), trio.fail_after(60):
            await registry.start(CLIENT1, JobSpecification(command="late"))
        assert machine.records.jobs == {}
        machine.records.settle_seconds = 0


async def test_the_starts_of_one_client_wait_for_each_other(machine: Machine) -> None:
    """However many Starts a client has in flight, so many are under way; another client's does not come behind them."""
    slow = Script(execute_seconds=5)
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        for _ in range(STARTS_OF_CLIENT + 5):
            nursery.start_soon(machine.start, registry, CLIENT1, slow)
        await trio.sleep(1)
        assert len(machine.host.spawned) == STARTS_OF_CLIENT
        await machine.start(registry, CLIENTS[1])
        assert trio.current_time() < 2
        await trio.sleep(10)
        assert len(machine.host.spawned) == STARTS_OF_CLIENT + 6


@pytest.mark.parametrize("rounds", range(24))
async def test_a_start_that_is_given_up_leaves_nothing(machine: Machine, rounds: int) -> None:
    """In whatever round of the event loop a caller leaves, there is a job with an id that it has, or none at all."""
    script = Script(execute_checkpoints=3, on_term=None, others_end_at=NEVER, writes=((0, 100),))
    job_ids = []

    async def call(registry: Registry) -> None:
        job_ids.append(await machine.start(registry, CLIENT1, script))

    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, registry)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert registry.running == len(job_ids)
        assert machine.logs() == set(job_ids)
        assert [record_of(registry, job_id).owner for job_id in job_ids] == ["client1"] * len(job_ids)
        if not job_ids:
            assert all(each.is_closed and each.is_removed for each in machine.host.spawned.values())
            assert machine.records.jobs == {}
            assert not any(isinstance(each.event, Finished) for each in machine.records.happened)  # to be watched


async def test_a_start_that_is_given_up_takes_no_share(machine: Machine) -> None:
    """Callers that leave during their Starts can start as many jobs afterwards as before."""
    async with machine.registry(bounds=Bounds(running=4)) as registry:
        for _ in range(5):
            with trio.move_on_after(1):
                await machine.start(registry, CLIENT1, Script(spawn_seconds=NEVER))
            with trio.move_on_after(1):
                await machine.start(registry, CLIENT1, Script(execute_seconds=NEVER))
        await machine.start(registry, CLIENT1)


async def test_a_start_that_is_given_up_has_one_file_to_be_removed(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers that leave, as many as files may wait to be removed, leave none: each file waits once."""
    async with machine.registry(bounds=Bounds(ended=4)) as registry, trio.open_nursery() as callers:
        for client in CLIENTS[:4]:
            callers.start_soon(machine.start, registry, client, Script(execute_seconds=NEVER))
        await trio.sleep(1)
        callers.cancel_scope.cancel()
    assert machine.logs() == set()
    assert caplog.messages == []


async def test_a_large_specification_is_not_kept(machine: Machine) -> None:
    """A running and an ended job keep a bounded part of their arguments."""
    async with machine.registry() as registry:
        machine.scripts["large"] = Script(ends_at=1)
        job_id = await registry.start(CLIENT1, JobSpecification(command="large", args=("x" * 999,) * 1000))
        for _ in ("running", "ended"):
            command = record_of(registry, job_id).command
            assert sum(map(len, command.args)) <= 16 * 1024
            assert len(command.args) + command.omitted == 1000
            await trio.sleep(2)


# --- failures of one job ----------------------------------------------------------------------------------------------


async def test_a_bug_in_one_job_leaves_the_others_alone(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expects ends that job as lost and is logged; the others run on."""
    async with machine.registry() as registry:
        well = await machine.start(registry, CLIENT1, Script(ends_at=10))
        ill = await machine.start(registry, CLIENT1, Script(ends_at=1, bug=RuntimeError("a bug, scripted")))
        assert await ended(registry, ill) == ServerLost("a bug in the server ended it")
        assert await ended(registry, well) == Exited(0)
        assert "a bug in the server ended this job" in caplog.text


@pytest.mark.parametrize("point", ["has_died", "signal_main"])
async def test_a_failing_host_does_not_keep_a_drain_from_any_job(machine: Machine, point: str) -> None:
    """An error at the first job is neither the drain's nor the end of its way through the jobs."""
    async with machine.registry() as registry:
        job_ids = [await machine.start(registry, client, Script()) for client in CLIENTS]
        machine.plan(Fault(point=point, call=1, number=errno.EMFILE))
        await registry.drain()
        for job_id in job_ids:
            assert isinstance(await ended(registry, job_id), ServerShutdown)
