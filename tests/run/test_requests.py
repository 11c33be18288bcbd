"""Starts with a request id: however often one comes, one job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from jobmaster.errors import (
    AuditUnavailable,
    CommandNotRunnable,
    CommandNotRunnableNow,
    ExecutionUnknown,
    JournalUnavailable,
    RequestIdReused,
    ServerBusy,
    ServerDraining,
)
from jobmaster.job.cause import Cause, Exited, OomKilled, ServerLost, ServerShutdown, Stopped, describe
from jobmaster.job.identifier import JobId
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Running
from jobmaster.run import requests
from jobmaster.run.bounds import Bounds
from jobmaster.run.live_record import RECORD_SECONDS
from jobmaster.run.registry import Registry
from jobmaster.run.requests import SETTLE_SECONDS
from jobmaster.run.supervisor import EXECUTE_SECONDS
from tests.run.conftest import SLEEPER, Machine
from tests.run.identities import CLIENT1, CLIENT2, ended, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import NEVER, OnTerm, Script

COMMAND = JobSpecification(command="command")


async def start(registry: Registry) -> JobId:
    """The one request that most of these tests make."""
    return await registry.start(CLIENT1, COMMAND, "request")


async def held_by_an_earlier_server(machine: Machine) -> None:
    """A server has gone while the kernel was executing its only job's command; the main process has died since."""
    machine.scripts["command"] = Script(execute_seconds=1)
    async with trio.open_nursery() as nursery, machine.registry(hands_over=lambda: True) as registry:
        nursery.start_soon(start, registry)  # noqa: ASYNC111  # cancelled with the registry, as calls are
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
    execution = machine.host.spawned.pop("command")
    machine.host.spawned["earlier"] = execution
    execution.end(Exited(0))
    machine.scripts["command"] = SLEEPER


async def test_one_job(machine: Machine) -> None:
    """Starts at the same time, later, and after the job's end give the same job; another client's gives another."""
    machine.scripts["command"] = Script(ends_at=1, execute_seconds=0.1)
    job_ids: list[JobId] = []

    async def call(registry: Registry) -> None:
        job_ids.append(await start(registry))

    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call, registry)
        await call(registry)
        await ended(registry, job_ids[0])
        await call(registry)
        assert len(set(job_ids)) == 1
        assert await registry.start(CLIENT2, COMMAND, "request") not in job_ids


async def test_a_start_that_comes_again_where_no_more_are_taken(machine: Machine) -> None:
    """It is given its job; one that has none is refused."""
    machine.scripts["command"] = SLEEPER
    async with machine.registry(bounds=Bounds(running=4)) as registry:
        job_id = await start(registry)
        with pytest.raises(ServerBusy):
            await registry.start(CLIENT1, COMMAND, "another")
        assert await start(registry) == job_id


async def test_a_start_that_comes_again_soon(machine: Machine) -> None:
    """Nothing is made for it: its caller may not have the time."""
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        job_id = await start(registry)
        assert await start(registry) == job_id
    assert len(machine.host.made) == 1


@pytest.mark.parametrize("comes_soon", [True, False])
async def test_a_start_that_comes_again_where_the_journal_takes_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, comes_soon: bool
) -> None:
    """What can be read of it is told: its job, or that its id is another's; a new one is refused."""
    if not comes_soon:
        monkeypatch.setattr(requests, "MOST_RECENT", 0)
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        job_id = await start(registry)
        machine.records.is_writable = False
        assert await start(registry) == job_id
        with pytest.raises(RequestIdReused):
            await registry.start(CLIENT1, JobSpecification(command="other"), "request")
        with pytest.raises(JournalUnavailable):
            await registry.start(CLIENT1, COMMAND, "another")
        machine.records.is_writable = True


async def test_what_is_made_for_a_start_that_comes_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of what is made where its id is not known to have come before."""
    monkeypatch.setattr(requests, "MOST_RECENT", 0)
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        job_id = await start(registry)
        assert await start(registry) == job_id
        first, second = machine.host.made
        assert (second.was_executed(), second.is_removed, second.is_closed) == (False, True, True)
        await trio.sleep(1)
        assert machine.logs() == {job_id}
        assert registry.running == 1
    assert first.was_executed()


async def test_a_start_that_is_new(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is asked nothing before its launch is recorded."""
    monkeypatch.delattr(MemoryRecords, "request")
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        await start(registry)


async def test_a_start_that_comes_again_is_admitted_too(machine: Machine) -> None:
    """Its job is told when it is; where it is refused, nothing is, and the journal is not asked."""
    machine.scripts["command"] = SLEEPER
    admissions: list[JobId] = []

    async def admitted() -> None:
        admissions.append(job_id)
        await trio.sleep(1)

    async def refused() -> None:  # noqa: ASYNC124  # as it is called
        raise AuditUnavailable("not now")

    async with machine.registry(bounds=Bounds(running=4)) as registry:
        job_id = await start(registry)
        with pytest.raises(ServerBusy):
            await registry.start(CLIENT1, COMMAND, "another", admitted=admitted)
        assert admissions == []
        assert await registry.start(CLIENT1, COMMAND, "request", admitted=admitted) == job_id
        assert admissions == [job_id]
        with pytest.raises(AuditUnavailable):
            await registry.start(CLIENT1, COMMAND, "request", admitted=refused)


async def test_another_command(machine: Machine) -> None:
    """The same request id with anything else is refused."""
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        await start(registry)
        with pytest.raises(RequestIdReused):
            await registry.start(CLIENT1, JobSpecification(command="command", args=("x",)), "request")


async def test_a_command_that_cannot_be_run(machine: Machine) -> None:
    """Its error is repeated."""
    machine.scripts["command"] = Script(execute_error=CommandNotRunnable("'command' not found"))
    async with machine.registry() as registry:
        with pytest.raises(CommandNotRunnable):
            await start(registry)
        machine.scripts["command"] = SLEEPER
        with pytest.raises(CommandNotRunnable, match="'command' not found"):
            await start(registry)


async def test_a_command_that_cannot_be_run_for_now(machine: Machine) -> None:
    """An error that may pass is not repeated: the next Start of the request runs the command."""
    machine.scripts["command"] = Script(execute_error=CommandNotRunnableNow("text file busy"))
    async with machine.registry() as registry:
        with pytest.raises(CommandNotRunnableNow):
            await start(registry)
        machine.scripts["command"] = SLEEPER
        job_id = await start(registry)
        assert isinstance(record_of(registry, job_id).state, Running)


async def test_a_caller_that_leaves_while_its_start_is_recorded(machine: Machine) -> None:
    """Where the disk takes its time, a command whose caller has left meanwhile is not executed, and the next Start's is."""
    machine.scripts["command"] = Script(execute_checkpoints=0, is_executed_unheard=True)
    machine.records.commits_are_shielded = True
    machine.records.commit_seconds = 2
    async with machine.registry() as registry:
        with trio.move_on_after(1):
            await start(registry)
        first = machine.host.spawned.pop("command")
        assert not first.was_executed()
        job_id = await start(registry)
        assert isinstance(record_of(registry, job_id).state, Running)


async def test_a_command_that_was_executed_too_late(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody heard in time that it was, Start fails and says so; the next one runs it no second time."""
    machine.scripts["command"] = Script(is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5)
    async with machine.registry() as registry:
        with pytest.raises(CommandNotRunnable, match="did not find and execute the command within 10 s"):
            await start(registry)
        machine.scripts["command"] = SLEEPER
        job_id = await start(registry)
        cause = await ended(registry, job_id)
        assert isinstance(cause, Stopped)
        assert (cause.by, cause.signal, cause.reason) == ("", 9, "its command was executed too late for its start")
        assert describe(cause) == "stopped by the server: its command was executed too late for its start"
    assert "a bug" not in caplog.text


async def test_a_late_command_that_the_kernel_has_killed(machine: Machine) -> None:
    """Where it died for memory before anybody heard that it was executed, that is its end, and not that it was late."""
    machine.scripts["command"] = Script(
        is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5, killed_for_memory_at=5
    )
    async with machine.registry() as registry:
        with pytest.raises(CommandNotRunnable):
            await start(registry)
        assert isinstance(await ended(registry, await start(registry)), OomKilled)


async def test_who_leaves_while_a_late_command_is_ended(machine: Machine) -> None:
    """A caller that leaves between the deadline and the answer does not have the command run a second time."""
    late = Script(is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5, death_seconds=3)
    machine.scripts["command"] = late
    async with machine.registry() as registry:
        with trio.move_on_after(EXECUTE_SECONDS + 1):
            await start(registry)
        machine.scripts["command"] = SLEEPER
        assert isinstance(await ended(registry, await start(registry)), Stopped)


async def test_a_command_that_was_executed_too_late_for_nobody(machine: Machine) -> None:
    """Without a request id, nothing of it is left but the error."""
    machine.scripts["command"] = Script(is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5)
    async with machine.registry() as registry:
        with pytest.raises(CommandNotRunnable, match="did not find and execute the command within 10 s"):
            await registry.start(CLIENT1, COMMAND)
        assert registry.running == 0
        await trio.sleep(5)
        assert machine.logs() == set()
        assert machine.records.jobs == {}


async def test_who_leaves_while_the_journal_hangs(machine: Machine) -> None:
    """The end of a late execution is written when the journal can be, and tells what became of the request."""
    machine.scripts["command"] = Script(is_executed_unheard=True, execute_seconds=EXECUTE_SECONDS + 5)
    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, registry)
            await trio.sleep(EXECUTE_SECONDS - 1)
            machine.records.commit_seconds = machine.records.settle_seconds = 3600
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        await trio.sleep(RECORD_SECONDS)
        assert registry.running == 0
        assert registry.unrecorded == 1
        machine.records.commit_seconds = machine.records.settle_seconds = 0
        machine.scripts["command"] = SLEEPER
        job_id = await start(registry)
        assert isinstance(await ended(registry, job_id), Stopped)
        assert registry.unrecorded == 0


@pytest.mark.parametrize("pause", [0, 20])
@pytest.mark.parametrize("rounds", range(24))
async def test_a_start_that_was_given_up_is_repeated(machine: Machine, rounds: int, pause: float) -> None:
    """In whatever round of the event loop the first caller leaves, the second one has a job that runs."""
    machine.scripts["command"] = Script(execute_checkpoints=3, on_term=OnTerm(after=2), death_seconds=1)

    async def call(registry: Registry) -> None:
        await start(registry)

    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, registry)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.sleep(pause)
        job_id = await start(registry)
        await trio.sleep(20)
        assert isinstance(record_of(registry, job_id).state, Running)
        assert registry.running == 1


@pytest.mark.parametrize(("unheard", "others"), [(True, 0), (True, 1), (False, 1)])
@pytest.mark.parametrize("rounds", range(24))
async def test_a_command_is_executed_once_for_a_request(
    machine: Machine, rounds: int, unheard: bool, others: int
) -> None:
    """In whatever round its caller leaves, a command that may be executed by then is not ended, and no other Start runs it."""
    machine.scripts["command"] = Script(execute_checkpoints=3, execute_seconds=0.1, is_executed_unheard=unheard)
    found: list[JobId] = []

    async def call(registry: Registry) -> None:
        found.append(await start(registry))

    async with machine.registry() as registry, trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaves:
            leaves.start_soon(start, registry)
            for _ in range(others):
                nursery.start_soon(call, registry)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            leaves.cancel_scope.cancel()
        await call(registry)
        executed = [each for each in machine.host.made if each.was_executed()]
        await trio.sleep(20)
        assert len(executed) == 1
        assert [machine.execution(job_id) for job_id in found] == executed * (1 + others)
        assert isinstance(record_of(registry, found[0]).state, Running)


async def test_a_command_that_is_not_found_when_its_caller_has_left(machine: Machine) -> None:
    """Its error is what a Start of the same request gets."""
    error = CommandNotRunnable("'command' not found")
    machine.scripts["command"] = Script(execute_error=error, execute_seconds=2)
    async with machine.registry() as registry:
        with trio.move_on_after(1):
            await start(registry)
        machine.scripts["command"] = SLEEPER
        with pytest.raises(CommandNotRunnable, match="'command' not found"):
            await start(registry)
        assert registry.running == 0


@pytest.mark.parametrize("rounds", range(20))
async def test_what_an_earlier_server_did_not_execute(machine: Machine, rounds: int) -> None:
    """Whenever a Start comes that an earlier server did not bring to its end, it gives a job that runs."""
    await held_by_an_earlier_server(machine)
    machine.records.posts_wait = True
    async with machine.registry() as registry:
        await registry.recover()
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        with trio.fail_after(60):
            job_id = await start(registry)
        assert isinstance(record_of(registry, job_id).state, Running)
        assert machine.execution(job_id).truth.executed is not None


async def test_a_journal_that_does_not_answer(machine: Machine) -> None:
    """A Start whose predecessor's fate is not written, and will not be soon, is refused for now."""
    await held_by_an_earlier_server(machine)
    machine.host.spawned["earlier"].tell_late(
        RECORD_SECONDS + 2
    )  # while the registry that follows recovers, and after that
    machine.records.posts_wait = True
    machine.records.settle_seconds = 2 * SETTLE_SECONDS
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(1)
        with trio.fail_after(60), pytest.raises(JournalUnavailable):
            await start(registry)


@pytest.mark.parametrize(
    ("death_seconds", "ends_at", "cause"), [(0, NEVER, ServerShutdown(signal=9)), (5, 0, Exited(3))]
)
async def test_a_server_that_ends_while_a_command_is_executed(
    machine: Machine, death_seconds: float, ends_at: float, cause: Cause
) -> None:
    """The caller is told to try again; where it was executed all the same, the next server has its end, and no other run."""
    script = Script(
        is_executed_unheard=True, execute_seconds=1, ends_at=ends_at, death=Exited(3), death_seconds=death_seconds
    )
    machine.scripts["command"] = machine.scripts["nameless"] = script
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        for call in (
            partial(start, registry),
            partial(registry.start, CLIENT1, JobSpecification(command="nameless")),
        ):
            nursery.start_soon(expect, ServerDraining, call)
        await trio.sleep(0.5)
        await registry.drain()
    async with machine.registry() as registry:
        await registry.recover()
        job_id = await start(registry)
        assert await ended(registry, job_id) == cause
        assert list(machine.records.jobs) == [job_id]
        assert machine.logs() == {job_id}


async def test_a_launcher_that_dies_while_a_command_is_executed(machine: Machine) -> None:
    """The caller is told to try again; nobody knows whether it was executed, so it is told as lost and not begun anew."""
    machine.scripts["command"] = Script(
        execute_error=ExecutionUnknown("the server is shutting down"), status_is_withheld=True
    )
    async with machine.registry() as registry:
        await expect(ExecutionUnknown, partial(start, registry))
        job_id = await start(registry)
        assert isinstance(await ended(registry, job_id), ServerLost)


async def expect(error: type[Exception], call: Callable[[], Awaitable[JobId]]) -> None:
    """Makes a call that fails."""
    with pytest.raises(error):
        await call()
