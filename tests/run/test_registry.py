"""The set of jobs: who may start, see and stop one, what is kept, and how it ends."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import CommandNotRunnable, HandedOver, HostError, JobNotFound, ServerBusy
from jobmaster.job.cause import Exited, OomKilled, ServerLost, ServerShutdown, Stopped
from jobmaster.job.identifier import JobId
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Ended, Running, Stopping
from jobmaster.run.registry import LEFTOVER_SECONDS, Bounds, Registry
from jobmaster.run.teardown import CLOSING_SECONDS
from tests.run.conftest import KILLED, Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, CLIENTS, ended, record_of
from tests.run.scripted import NEVER, OnTerm, Script

# --- start, find, stop ------------------------------------------------------------------------------------------------


async def test_a_job_belongs_to_who_started_it(machine: Machine) -> None:
    """Its owner and an admin find it, running and ended; to another client it is as one that never was."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        for _ in ("running", "ended"):
            assert (await registry.find(CLIENT1, job_id)).record.owner == "client1"
            assert (await registry.find(ADMIN, job_id)).record.id == job_id
            with pytest.raises(JobNotFound, match="no such job"):
                await registry.find(CLIENT2, job_id)
            await trio.sleep(2)


@pytest.mark.parametrize("text", ["", "x", "0" * 27, "é" * 27, "../../etc/passwd"])
async def test_there_is_no_such_job(machine: Machine, text: str) -> None:
    """Whatever is no id of a job answers the same."""
    async with machine.registry() as registry:
        with pytest.raises(JobNotFound, match="no such job"):
            await registry.find(ADMIN, text)
        with pytest.raises(JobNotFound, match="no such job"):
            await registry.stop(ADMIN, text)


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


async def test_a_stop_returns_the_record_of_the_end(machine: Machine) -> None:
    """Stop returns when the job has ended, at once where it has already, with the same record."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(death=Exited(7), after=2)))
        record = await registry.stop(ADMIN, job_id)
        assert isinstance(record.state, Ended)
        cause = record.state.cause
        assert isinstance(cause, Stopped)
        assert (cause.by, cause.exit_code) == ("superuser", 7)
        assert await registry.stop(CLIENT1, job_id) == record


async def test_who_leaves_a_stop_does_not_undo_it(machine: Machine) -> None:
    """The order stands when its caller is gone."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=3)))
        with trio.move_on_after(1):
            await registry.stop(CLIENT1, job_id)
        assert isinstance(record_of(registry, job_id).state, Stopping)
        assert isinstance(await ended(registry, job_id), Stopped)


async def test_a_job_that_was_handed_over(machine: Machine) -> None:
    """Its owner is told to ask again, whatever is asked; a stranger, that there is no such job."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1)
        await registry.hand_over()
        for question in (registry.find, registry.stop):
            with pytest.raises(HandedOver):
                await question(CLIENT1, job_id)
            with pytest.raises(JobNotFound):
                await question(CLIENT2, job_id)


# --- given up ---------------------------------------------------------------------------------------------------------


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


async def test_a_start_that_is_given_up_takes_no_share(machine: Machine) -> None:
    """Callers that leave during their Starts can start as many jobs afterwards as before."""
    async with machine.registry(bounds=Bounds(running=4)) as registry:
        for _ in range(5):
            with trio.move_on_after(1):
                await machine.start(registry, CLIENT1, Script(spawn_seconds=NEVER))
            with trio.move_on_after(1):
                await machine.start(registry, CLIENT1, Script(execute_seconds=NEVER))
        await machine.start(registry, CLIENT1)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_one_client_may_run_a_share(machine: Machine) -> None:
    """A client that has its share is refused with the number, and the others are not; an end gives the place back."""
    async with machine.registry(bounds=Bounds(running=8)) as registry:
        job_ids = [await machine.start(registry, CLIENT1) for _ in range(2)]
        with pytest.raises(ServerBusy, match="client1 runs 2 jobs, as many as one client may"):
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)
        await registry.stop(CLIENT1, job_ids[0])
        await machine.start(registry, CLIENT1)


async def test_all_clients_together(machine: Machine) -> None:
    """When as many jobs run as may, everybody is refused, until one has ended."""
    async with machine.registry(bounds=Bounds(running=8)) as registry:
        job_ids = [await machine.start(registry, client) for client in CLIENTS[:4] for _ in range(2)]
        with pytest.raises(ServerBusy, match="the server runs 8 jobs, as many as it may"):
            await machine.start(registry, CLIENTS[4])
        await registry.stop(ADMIN, job_ids[0])
        await machine.start(registry, CLIENTS[4])


async def test_jobs_that_are_being_started_count(machine: Machine) -> None:
    """A Start under way holds a place from its first moment."""
    async with machine.registry(bounds=Bounds(running=8)) as registry, trio.open_nursery() as callers:
        for _ in range(2):
            callers.start_soon(machine.start, registry, CLIENT1, Script(spawn_seconds=NEVER))
        await wait_all_tasks_blocked()
        with pytest.raises(ServerBusy, match="client1 runs 2 jobs"):
            await machine.start(registry, CLIENT1)
        callers.cancel_scope.cancel()


async def test_leftovers_count_and_are_tried_again(machine: Machine) -> None:
    """A job that could not be killed holds its client's place after its end, until it has died and is removed."""
    async with machine.registry(grace_seconds=0, bounds=Bounds(running=4)) as registry:
        stuck = Script(on_term=None, death_seconds=CLOSING_SECONDS + LEFTOVER_SECONDS)
        job_id = await machine.start(registry, CLIENT1, stuck)
        record = await registry.stop(CLIENT1, job_id)
        assert isinstance(record.state, Ended)
        assert isinstance(record.state.cause, ServerLost)
        assert registry.running == 0
        with pytest.raises(ServerBusy, match="client1 runs 1 jobs"):
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
        with pytest.raises(ServerBusy, match="the server runs 8 jobs, as many as it may"):
            await machine.start(registry, CLIENTS[4])


@pytest.mark.parametrize("point", ["kill", "remove", "close"])
async def test_a_leftover_that_fails_is_tried_again(machine: Machine, point: str) -> None:
    """An error at a leftover is logged, ends nothing else, and the leftover is tried again."""
    async with machine.registry(grace_seconds=0) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None, busy_seconds=3))
        other = await machine.start(registry, CLIENT2)
        await registry.stop(CLIENT1, job_id)
        assert not machine.execution(job_id).is_removed
        machine.plan(Fault(point=point, call=1, times=2, number=errno.EBUSY))
        await trio.sleep(4 * LEFTOVER_SECONDS)
        assert registry._leftovers == []
        assert machine.execution(job_id).is_closed
        assert isinstance(record_of(registry, other).state, Running)


async def test_ended_jobs_of_one_client(machine: Machine) -> None:
    """Of a client's ended jobs the newest are kept; another's record and output stay whatever that client runs."""
    async with machine.registry(bounds=Bounds(ended=8)) as registry:
        kept = await machine.start(registry, CLIENT2, Script(ends_at=1))
        await ended(registry, kept)
        job_ids = []
        for _ in range(6):
            job_ids.append(await machine.start(registry, CLIENT1, Script(ends_at=1)))
            await ended(registry, job_ids[-1])
        await trio.sleep(1)
        for job_id in job_ids[:-2]:
            with pytest.raises(JobNotFound):
                await registry.find(ADMIN, job_id)
        assert machine.logs() == {kept, *job_ids[-2:]}
        assert [record_of(registry, job_id).id for job_id in (kept, *job_ids[-2:])] == [kept, *job_ids[-2:]]


async def test_ended_jobs_of_all_clients(machine: Machine) -> None:
    """When all together have too many, the oldest of the client that has most is forgotten."""
    async with machine.registry(bounds=Bounds(ended=8)) as registry:
        job_ids: list[JobId] = []
        for client in (CLIENTS[0], *CLIENTS[:4], *CLIENTS[1:6]):
            job_ids.append(await machine.start(registry, client, Script(ends_at=1)))
            await ended(registry, job_ids[-1])
        await trio.sleep(1)
        kept = [job_id for job_id in job_ids if registry.known(ADMIN, job_id) is not None]
        await trio.sleep(1)
        assert len(kept) == 8
        assert machine.logs() == set(kept)
        assert job_ids[-2:] == kept[-2:], "a client with a single ended job keeps it"
        assert {record_of(registry, job_id).owner for job_id in kept} == {client.name for client in CLIENTS}


async def test_an_unlink_that_fails_ends_nothing(machine: Machine) -> None:
    """A forgotten job's file that can't be removed (EROFS) is tried again, and the server goes on meanwhile."""
    async with machine.registry(bounds=Bounds(ended=4)) as registry:
        machine.plan(Fault(point="unlink", call=1, times=2, number=errno.EROFS))
        first = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, first)
        second = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, second)
        await trio.sleep(1)
        assert machine.logs() == {first, second}
        await machine.start(registry, CLIENT2)
        await trio.sleep(200)
        assert first not in machine.logs()


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


# --- out of memory ----------------------------------------------------------------------------------------------------


async def test_oom_kills_are_seen_while_a_job_runs(machine: Machine) -> None:
    """A child killed for memory is in the record within a second, and is not held against a later foreign SIGKILL."""
    async with machine.registry() as registry:
        script = Script(children_killed_for_memory=(5.05,), ends_at=60, death=KILLED)
        job_id = await machine.start(registry, CLIENT1, script)
        other = await machine.start(registry, CLIENT1, Script(killed_for_memory_at=5.05, death_seconds=10))
        await trio.sleep(6)
        assert record_of(registry, job_id).oom_kills == 1
        assert await ended(registry, other) == OomKilled(memory_max=None, processes_killed=1)
        assert await ended(registry, job_id) == KILLED


async def test_only_jobs_of_a_client_whose_counter_moved_are_looked_at(machine: Machine) -> None:
    """Idle jobs cost one look at the counters of all together; a kill at one client's, a look at each of that client."""
    async with machine.registry() as registry:
        for client in CLIENTS:
            for _ in range(5):
                await machine.start(registry, client)
        await trio.sleep(1)
        calls = machine.host.faults.calls
        calls.clear()
        await trio.sleep(10)
        assert calls["oom_kills"] == 0
        assert calls["memory_events"] <= 51
        await machine.start(registry, CLIENT1, Script(children_killed_for_memory=(1, 3)))
        await trio.sleep(2)
        calls.clear()  # at the first kill, the counters of all clients were new
        await trio.sleep(5)
        assert calls["oom_kills"] == 6


async def test_counters_that_cannot_be_read(machine: Machine) -> None:
    """Where the counters of all together can't be read, each job looks at its own."""
    async with machine.registry() as registry:
        machine.plan(Fault(point="memory_events", call=1, times=10**9, number=errno.EMFILE))
        job_id = await machine.start(registry, CLIENT1, Script(children_killed_for_memory=(1,)))
        await trio.sleep(2)
        assert record_of(registry, job_id).oom_kills == 1


def test_bounds_leave_every_client_something() -> None:
    """However few jobs there may be, a client may have one."""
    for number in range(1, 10):
        bounds = Bounds(running=number, ended=number)
        assert 1 <= bounds.running_of_client <= number
        assert 1 <= bounds.ended_of_client <= number


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
