"""Starts that are under way when a server hands its jobs over: what their callers are told is what happens."""

from __future__ import annotations

import errno
import signal
from contextlib import suppress
from functools import partial
from typing import Final

import pytest
import trio

from jobmaster.errors import CommandNotRunnableNow, ServerDraining
from jobmaster.job.identifier import JobId
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Running
from jobmaster.journal.stored import JobQuery
from jobmaster.run import registry as registry_module
from jobmaster.run.registry import START_SECONDS, Registry
from jobmaster.run.supervisor import EXECUTE_SECONDS
from tests.run.conftest import SLEEPER, SOON, Machine, stopped_as
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, ended, record_of
from tests.run.scripted import NEVER, Script

STALLED: Final = {
    "being made": Script(spawn_seconds=NEVER),
    "being executed": Script(execute_seconds=START_SECONDS + 3),
    "executed unheard": Script(is_executed_unheard=True, execute_seconds=START_SECONDS + 3),
    "never executed": Script(execute_seconds=NEVER),
    "not to be killed": Script(execute_seconds=NEVER, death_seconds=60),
}


async def handed_over_while(machine: Machine, script: Script, request_id: str) -> None:
    """A server hands over while a Start is under way, whose caller is refused in time."""
    machine.scripts["command"] = script
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
        callers.start_soon(start_in_vain, registry, request_id)
        await trio.sleep(0.5)
        before = trio.current_time()
        await registry.hand_over()
        assert trio.current_time() - before == pytest.approx(START_SECONDS, abs=SOON)


async def start_in_vain(registry: Registry, request_id: str = "") -> None:
    """A Start that fails, or is refused."""
    with pytest.raises((ServerDraining, CommandNotRunnableNow)):
        await registry.start(CLIENT1, JobSpecification(command="command"), request_id)


@pytest.mark.parametrize("script", STALLED.values(), ids=STALLED)
async def test_what_is_refused_at_a_hand_over_is_not_executed(machine: Machine, script: Script) -> None:
    """Without a request id, its caller starts it anew: the next server executes nothing, ends what runs, and tells of neither."""
    await handed_over_while(machine, script, "")
    executed = [each.truth.executed for each in machine.host.made]
    async with machine.registry() as registry:
        await registry.recover()
        assert (await registry.history.page(ADMIN, JobQuery())).jobs == ()
        await trio.sleep(100)
        assert [each.truth.executed for each in machine.host.made] == executed
        assert registry.running == 0
        assert all(each.truth.died is not None and each.is_removed and each.is_closed for each in machine.host.made)
        assert (machine.records.jobs, machine.logs()) == ({}, set())


@pytest.mark.parametrize("script", STALLED.values(), ids=STALLED)
async def test_what_is_refused_at_a_hand_over_is_found_by_its_request_id(machine: Machine, script: Script) -> None:
    """A Start that comes again by its request id has the job that was executed, or begins it where it was not."""
    await handed_over_while(machine, script, "request")
    async with machine.registry() as registry:
        await registry.recover()
        machine.scripts["command"] = SLEEPER
        again = partial(registry.start, CLIENT1, JobSpecification(command="command"), "request")
        job_id = await again()
        assert [each.job_id for each in machine.host.made if each.truth.executed is not None] == [job_id]
        assert isinstance(record_of(registry, job_id).state, Running)


@pytest.mark.parametrize("script", [STALLED["being executed"], STALLED["executed unheard"]])
async def test_what_is_refused_and_cannot_be_adopted(machine: Machine, script: Script) -> None:
    """Where the next server cannot open its output or its cgroup, it ends and forgets it all the same."""
    await handed_over_while(machine, script, "")
    machine.plan(Fault(point="adopt", call=1))
    async with machine.registry() as registry:
        assert (await registry.recover()).report == ()
        await trio.sleep(100)
        assert all(each.truth.died is not None and each.is_removed and each.is_closed for each in machine.host.made)
        assert (machine.records.jobs, machine.logs()) == ({}, set())


@pytest.mark.parametrize("number", [None, errno.EIO])
async def test_a_host_that_fails_when_a_start_is_gone_on_with(
    machine: Machine, number: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The next server ends what it cannot know to be executed, says so where it was, and takes that for no bug of its own."""
    await handed_over_while(machine, STALLED["executed unheard"], "request")
    machine.plan(Fault(point="execute", call=1, number=number))
    async with machine.registry() as registry:
        await registry.recover()
        (job_id,) = machine.records.jobs
        assert stopped_as(await ended(registry, job_id)) == ("", signal.SIGKILL, None, True)
    assert "of an earlier server was executed too late" in caplog.text
    assert "bug" not in caplog.text


async def test_two_hand_overs_in_a_row(machine: Machine) -> None:
    """Word that a Start was refused goes from server to server until its process has died."""
    await handed_over_while(machine, STALLED["not to be killed"], "")
    for _ in range(2):
        async with machine.registry(hands_over=lambda: True) as registry:
            await registry.recover()
            await trio.sleep(1)
            before = trio.current_time()
            await registry.hand_over()
            assert trio.current_time() - before <= SOON
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(100)
        assert (registry.running, machine.records.jobs, machine.logs()) == (0, {}, set())


@pytest.mark.parametrize("is_shielded", [True, False])
async def test_a_launch_that_is_being_recorded_at_a_hand_over(machine: Machine, is_shielded: bool) -> None:
    """Whether it is recorded or not, its command is not executed, and nothing of it is left."""
    machine.scripts["command"] = SLEEPER
    machine.records.commit_seconds, machine.records.commits_are_shielded = START_SECONDS + 2, is_shielded
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
        callers.start_soon(start_in_vain, registry)
        await trio.sleep(0.5)
        await registry.hand_over()
    assert len(machine.records.jobs) == is_shielded
    machine.records.commit_seconds = 0
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(1)
        assert (machine.records.jobs, machine.logs(), registry.running) == ({}, set(), 0)
    assert [(each.truth.executed, each.is_removed) for each in machine.host.made] == [(None, True)]


@pytest.mark.parametrize("is_on_purpose", [True, False])
@pytest.mark.parametrize("is_unheard", [True, False])
@pytest.mark.parametrize("rounds", range(30))
async def test_a_start_in_the_instant_of_a_hand_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, rounds: int, is_unheard: bool, is_on_purpose: bool
) -> None:
    """In whatever round of the event loop the jobs are handed over: who was given an id has a job that runs on, or there is none."""
    monkeypatch.setattr(registry_module, "START_SECONDS", 0.0)
    script = Script(execute_checkpoints=3, is_executed_unheard=is_unheard, writes=((0, 100),))
    job_ids: list[JobId] = []

    async def call(registry: Registry) -> None:
        with suppress(ServerDraining):
            job_ids.append(await machine.start(registry, CLIENT1, script))

    with trio.CancelScope() as server:
        async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
            callers.start_soon(call, registry)  # noqa: ASYNC111  # refused, or cancelled with the registry
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            if is_on_purpose:
                await registry.hand_over()
            else:
                server.cancel()
                await trio.sleep_forever()
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(1)
        assert [each.job_id for each in machine.host.made if each.truth.died is None] == job_ids
        assert list(machine.records.jobs) == job_ids
        assert machine.logs() == set(job_ids)


async def test_a_start_that_failed_is_left_to_the_next_server(machine: Machine) -> None:
    """A process that does not die when its start has failed is left to the next server, which has the request id free again."""
    machine.scripts["command"] = Script(execute_seconds=NEVER, death_seconds=15)
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
        callers.start_soon(start_in_vain, registry, "request")
        callers.start_soon(start_in_vain, registry, "")
        await trio.sleep(EXECUTE_SECONDS + 1)
        before = trio.current_time()
        await registry.hand_over()
        assert trio.current_time() - before <= START_SECONDS + SOON
    machine.scripts["command"] = SLEEPER
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(20)
        assert (registry.running, machine.records.jobs, machine.logs()) == (0, {}, set())
        await registry.start(CLIENT1, JobSpecification(command="command"), "request")
